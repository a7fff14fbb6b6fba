// The stack that sidestream replaces: Express, one listener per client on a process-wide event bus.
import { EventEmitter } from "node:events";
import express from "express";
import { eachEvent, listen } from "./stream.mjs";

const bus = new EventEmitter();
bus.setMaxListeners(0);

const app = express();
app.get("/events", (request, response) => {
  response.writeHead(200, {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    Connection: "keep-alive",
    "X-Accel-Buffering": "no",
  });
  response.write(": connected\n\n");
  const send = (id, data) => {
    response.write(`id: ${id}\nevent: session-output\ndata: ${JSON.stringify(data)}\n\n`);
  };
  bus.on("session-output", send);
  request.on("close", () => bus.off("session-output", send));
});

eachEvent((id, data) => bus.emit("session-output", id, data));
listen(app);
