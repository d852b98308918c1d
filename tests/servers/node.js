// A gateway from HTTP/2 to HTTP/1 as Node's documentation suggests one: `node.js PORT BACKEND`.
const http = require("http");
const http2 = require("http2");

const [port, backend] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true });

function passOn(request, response) {
    const headers = {};
    for (const [name, value] of Object.entries(request.headers)) {
        if (!name.startsWith(":")) headers[name] = value;
    }
    headers.host = request.authority || request.headers.host;
    const options = { port: backend, method: request.method, path: request.url, headers, agent };
    try {
        const onward = http.request(options, (answer) => {
            answer.resume();
            answer.on("end", () => response.end("x"));
        });
        onward.on("error", () => response.destroy());
        request.pipe(onward);
    } catch {
        response.destroy();
    }
}

const server = http2.createServer(passOn);
server.on("sessionError", () => {});
server.on("session", (session) => session.on("error", () => {}));
process.on("uncaughtException", (error) => console.error(error));
server.listen(port, "0.0.0.0");
