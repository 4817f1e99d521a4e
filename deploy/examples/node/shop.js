// An application with a bridge beside it: it posts an event to localhost over
// HTTP, and receives the outcome from NATS.
//   node shop.js <order id> <phone number>
import { connect } from "@nats-io/transport-node";
import { DeliverPolicy, jetstream } from "@nats-io/jetstream";

const [order, phone] = process.argv.slice(2);
if (!phone) {
  console.error("usage: node shop.js <order id> <phone number>");
  process.exit(2);
}
const events = process.env.EVENTS_URL ?? "http://127.0.0.1:8080/events";
const limit = setTimeout(() => {
  console.error("no outcome in a minute");
  process.exit(1);
}, 60_000);

// Listen first, then post. A durable consumer, which an application that lives
// longer would use, also gets what came while it was away.
const nc = await connect({ servers: process.env.NATS_URL ?? "127.0.0.1:4222" });
const consumer = await jetstream(nc).consumers.get("BRIDGE_RESULTS", {
  filter_subjects: ["bridge.results.>"],
  deliver_policy: DeliverPolicy.New,
});
const results = await consumer.consume();
await nc.flush();

// The order's own id makes the event's: posted again, nothing is sent twice.
const event = {
  specversion: "1.0",
  id: `shipped-${order}`,
  source: "/shop",
  type: "com.acme.order.shipped",
  subject: order,
  data: { customer: { name: "Bo", phone } },
};
await post(event);
for await (const message of results) {
  const result = message.json();
  if (result.causationid !== event.id) continue; // somebody else's
  console.log(result.type, result.causationid);
  break;
}
clearTimeout(limit);
await nc.close();

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
