// Express with better-sse: one session per client in one channel, as its documentation shows it.
import { createChannel, createSession } from "better-sse";
import express from "express";
import { eachEvent, listen } from "./stream.mjs";

const channel = createChannel();

const app = express();
app.get("/events", async (request, response) => {
  channel.register(await createSession(request, response));
});

eachEvent((id, data) => channel.broadcast(data, "session-output", { eventId: String(id) }));
listen(app);
