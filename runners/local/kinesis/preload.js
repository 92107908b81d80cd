// Loaded before kinesis-mock (node --require): what the server itself has no settings for.
"use strict";
const fs = require("fs");
const net = require("net");

// It listens on every interface; here nothing but loopback does.
const sockets = new Set();
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  this.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  return typeof port === "number"
    ? listen.call(this, port, "127.0.0.1", ...rest)
    : listen.call(this, port, ...rest);
};

// It writes its data over the old file; a kill in between must not leave half of one. It also
// drops listeners and exits before its last write is closed, so events cannot be relied on.
let writes = 0;
const createWriteStream = fs.createWriteStream;
fs.createWriteStream = function (path, options) {
  if (!String(path).endsWith("kinesis-data.json")) return createWriteStream(path, options);
  const part = `${path}.${++writes}.part`; // two writes may overlap
  const stream = createWriteStream(part, options);
  const appear = () => {
    process.off("exit", atExit);
    fs.renameSync(part, path);
  };
  const atExit = () => {
    try {
      JSON.parse(fs.readFileSync(part));
    } catch {
      return;
    }
    appear();
  };
  process.once("exit", atExit);
  const destroy = stream._destroy;
  stream._destroy = function (error, done) {
    destroy.call(this, error, (failed) => {
      if (!failed && this.writableFinished) appear();
      done(failed);
    });
  };
  return stream;
};

// At its end it waits for connections that clients keep open, for 30 s.
process.on("SIGTERM", () => {
  for (const socket of sockets) socket.push(null); // as if the client had ended it
});
