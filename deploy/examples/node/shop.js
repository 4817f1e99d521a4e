// An application with a bridge beside it, which it knows by localhost only: it
// posts an event to the bridge, and receives the outcome at an HTTP endpoint of its
// own, which is the bridge's BRIDGE_SINK_URL. It needs nothing but Node.
//   node shop.js <order id> <phone number>
import { once } from "node:events";
import { createServer } from "node:http";

const [order, phone] = process.argv.slice(2);
if (!phone) {
  console.error("usage: node shop.js <order id> <phone number>");
  process.exit(2);
}
const events = process.env.EVENTS_URL ?? "http://127.0.0.1:8080/events";
const [host, port] = (process.env.OUTCOMES_ADDR ?? "127.0.0.1:8090").split(":");
setTimeout(() => {
  console.error("no outcome in a minute");
  process.exit(1);
}, 60_000).unref();

// The order's own id makes the event's: posted again, nothing is sent twice.
const event = {
  specversion: "1.0",
  id: `shipped-${order}`,
  source: "/shop",
  type: "com.acme.order.shipped",
  subject: order,
  data: { customer: { name: "Bo", phone } },
};

// Listen first, then post. What the bridge cannot post now it posts later, so that
// an application that was away misses nothing.
const server = createServer(async (request, response) => {
  try {
    const outcome = await read(request);
    response.writeHead(204).end(() => {
      // Receipts of the message come too, with the same cause.
      if (outcome.causationid !== event.id || !outcome.type.startsWith("com.8x8.action.")) return;
      console.log(outcome.type, outcome.causationid);
      server.close();
      server.closeIdleConnections();
    });
  } catch (error) {
    response.writeHead(400).end(error.message);
  }
});
server.keepAliveTimeout = 1;
server.listen(Number(port), host);
await once(server, "listening");
await post(event);

// read reads a CloudEvent in binary mode, which is the bridge's default, or in
// structured mode. An outcome may come twice; its id tells.
async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks).toString();
  if (request.headers["content-type"]?.startsWith("application/cloudevents+json")) return JSON.parse(body);
  const { "ce-id": id, "ce-type": type, "ce-causationid": causationid } = request.headers;
  if (!id) throw new Error("no CloudEvent");
  return { id, type, causationid, data: body && JSON.parse(body) };
}

// post posts until the event is stored: 503 and 429 mean later, and a lost
// answer is no harm, since the same id is the same event.
async function post(event) {
  for (;;) {
    try {
      const response = await fetch(events, {
        method: "POST",
        headers: { "Content-Type": "application/cloudevents+json" },
        body: JSON.stringify(event),
        signal: AbortSignal.timeout(10_000),
      });
      if (response.status === 202) return;
      const problem = await response.text();
      if (![429, 503].includes(response.status)) {
        console.error("the bridge refuses the event:", problem);
        process.exit(1);
      }
    } catch (error) {
      console.error("trying again:", error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}
