// Publish a goal, and wait for what becomes of it: `node publish-goal.mjs path/to/submitter-shop.toml`.
//
// `planmesh credentials submitter shop` makes that file, and says where it is. Beside this script, once:
// `npm install @nats-io/transport-node`.
import { readFile } from "node:fs/promises";
import { connect } from "@nats-io/transport-node";

const toml = await readFile(process.argv[2], "utf8"); // each value is a JSON string
const { server, user, password } = Object.fromEntries(
  [...toml.matchAll(/^(\w+) = (".*")$/gm)].map(([, key, value]) => [key, JSON.parse(value)]),
);
const nats = await connect({ servers: server, user, pass: password, inboxPrefix: `_INBOX.${user}` });

const address = `${user.replace("submitter-", "")}.greeting-${Date.now()}`; // the space, and the goal's id
const goal = { plan: await readFile("hello.yaml", "utf8"), inputs: { who: "Ada" } };

const news = nats.subscribe(`outcomes.${address}`); // first listen,
const stored = (await nats.request(`goals.${address}`, JSON.stringify(goal))).json(); // then ask
if (stored.error) throw new Error(stored.error.description);
console.log(`published ${address}`);

for await (const message of news) {
  const outcome = message.json();
  console.log(JSON.stringify(outcome));
  if (["completed", "refused", "failed", "cancelled"].includes(outcome.outcome)) break;
}
await nats.close();
