// Loaded before kinesis-mock (node --require): what the server itself has no settings for.
"use strict";
const fs = require("fs");
const net = require("net");

// It listens on every interface; here nothing but loopback does.
const servers = [];
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  servers.push(this);
  return typeof port === "number"
    ? listen.call(this, port, "127.0.0.1", ...rest)
    : listen.call(this, port, ...rest);
};

// It writes its data over the old file; a kill in between must not leave half of one.
const createWriteStream = fs.createWriteStream;
fs.createWriteStream = function (path, options) {
  if (!String(path).endsWith("kinesis-data.json")) return createWriteStream(path, options);
  const part = `${path}.part`;
  const stream = createWriteStream(part, options);
  const appear = () => fs.renameSync(part, path);
  // Its last write is whole by the time that it exits, but the event has not come by then.
  const atExit = () => {
    try {
      JSON.parse(fs.readFileSync(part));
    } catch {
      return;
    }
    appear();
  };
  process.once("exit", atExit);
  stream.once("finish", () => {
    process.off("exit", atExit);
    appear();
  });
  return stream;
};

// It waits 30 s at its end for connections that clients keep open.
process.on("SIGTERM", () => {
  for (const server of servers) {
    if (server.closeAllConnections) server.closeAllConnections();
  }
});
