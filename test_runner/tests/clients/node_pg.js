// What a program written with node-postgres does. Where to connect stands in the environment, as libpq has it. Prints a
// line for each thing that went well; an exception ends it.

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const fs = require("node:fs");
const { Client, Pool } = require("pg");

const environment = process.env;
// Here an address is given, and the name that TLS is to check beside it.
const settings = {
  host: environment.PGHOSTADDR,
  ssl: {
    ca: fs.readFileSync(environment.PGSSLROOTCERT, "utf8"),
    servername: environment.PGHOST,
    checkServerIdentity: (_, certificate) => require("node:tls").checkServerIdentity(environment.PGHOST, certificate),
  },
};

async function connected(more) {
  const client = new Client({ ...settings, ...more });
  await client.connect();
  return client;
}

async function queries(client) {
  const { rows } = await client.query("SELECT current_user AS who, $1 || 'ü' AS text", ["ä"]);
  assert.deepEqual(rows, [{ who: "app", text: "äü" }]);
  const shown = await client.query("SHOW statement_timeout");
  assert.equal(shown.rows[0].statement_timeout, "54321ms");
  for (let number = 0; number < 10; number++) {
    const named = { name: "plus", text: "SELECT $1::int + 1 AS sum", values: [number] };
    assert.equal((await client.query(named)).rows[0].sum, number + 1);
  }
  console.log("queries");
}

async function errors(client) {
  await client.query("BEGIN");
  await assert.rejects(client.query("SELECT 1 / 0"), { code: "22012", severity: "ERROR" });
  await client.query("ROLLBACK");
  await assert.rejects(connected({ password: "wrong" }), { code: "28P01" });
  await assert.rejects(connected({ database: "none" }), { code: "3D000" });
  console.log("errors");
}

async function large(client) {
  const text = crypto.randomBytes(4 << 20).toString("hex");
  const { rows } = await client.query("SELECT $1::text AS same", [text]);
  assert.ok(rows[0].same === text);
  const many = await client.query("SELECT generate_series(1, 100000) AS number");
  assert.equal(many.rows.reduce((sum, row) => sum + row.number, 0), 5000050000);
  console.log("large");
}

async function notifications(client) {
  const told = new Promise((resolve) => client.once("notification", resolve));
  await client.query("LISTEN news");
  const other = await connected();
  await other.query("NOTIFY news, 'payload'");
  await other.end();
  assert.equal((await told).payload, "payload");
  console.log("notifications");
}

async function cancel(client) {
  const other = await connected();
  const { pid } = (await client.query("SELECT pg_backend_pid() AS pid")).rows[0];
  const sleeping = client.query("SELECT pg_sleep(1000)");
  sleeping.catch(() => {});
  const asleep = "SELECT count(*)::int AS count FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
  while ((await other.query(asleep, [pid])).rows[0].count !== 1);
  // It has no better way to cancel than this one, which sends the request in clear.
  new Client({ ...settings, ssl: false }).cancel(client, client._getActiveQuery?.() ?? client.activeQuery);
  await assert.rejects(sleeping, { code: "57014" });
  assert.equal((await client.query("SELECT 42 AS answer")).rows[0].answer, 42);
  await other.end();
  console.log("cancel");
}

async function pool() {
  const shared = new Pool({ ...settings, max: 5 });
  const answers = await Promise.all([...Array(100).keys()].map((n) => shared.query("SELECT $1::int AS n", [n])));
  assert.deepEqual(answers.map(({ rows }) => rows[0].n), [...Array(100).keys()]);
  await shared.end();
  console.log("pool");
}

async function main() {
  const client = await connected({ statement_timeout: 54321 });
  for (const step of [queries, errors, large, notifications, cancel]) {
    await step(client);
  }
  await client.end();
  await pool();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
