// What both Node peers share: lines of standard input are events, and the port is told.
import { createInterface } from "node:readline";

export function eachEvent(publish) {
  let id = 0;
  const lines = createInterface({ input: process.stdin, crlfDelay: Infinity });
  lines.on("line", (line) => publish(++id, JSON.parse(line)));
}

export function listen(app) {
  const server = app.listen(0, "127.0.0.1", 4096, () => {
    console.log(`listening on http://127.0.0.1:${server.address().port}`);
  });
}
