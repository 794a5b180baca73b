// Uses files and batches of a server through OpenAI's own client, and prints what it got as JSON.
// node openai_batches.mjs BASE_URL KEY NODE_MODULES

import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [baseURL, apiKey, modules] = process.argv.slice(2);
const require = createRequire(join(modules, "from-here.js"));
const { default: OpenAI, toFile } = await import(pathToFileURL(require.resolve("openai")).href);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });

const lines = [];
for (let place = 0; place < 30; place++) {
  const body = { model: "words", input: place === 7 ? "" : `text ${place}` };
  lines.push(JSON.stringify({ custom_id: `row ${place}`, method: "POST", url: "/v1/embeddings", body }));
}
const file = await client.files.create({
  file: await toFile(Buffer.from(lines.join("\n")), "in.jsonl"),
  purpose: "batch",
});

async function ended(id) {
  for (;;) {
    const batch = await client.batches.retrieve(id);
    if (["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
      return batch;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const wish = { input_file_id: file.id, endpoint: "/v1/embeddings", completion_window: "24h" };
const batch = await ended((await client.batches.create(wish)).id);
const rows = async (id) =>
  (await (await client.files.content(id)).text())
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
const output = await rows(batch.output_file_id);
const errors = await rows(batch.error_file_id);
const listed = [];
for await (const each of client.batches.list({ limit: 1 })) {
  listed.push(each.id);
}
const refused = await client.batches.cancel(batch.id).catch((error) => ({
  kind: error.constructor.name,
  status: error.status,
}));
const deleted = await client.files.delete(file.id);
const gone = await client.files.retrieve(file.id).catch((error) => ({
  kind: error.constructor.name,
  status: error.status,
}));
console.log(JSON.stringify({ file, batch, output, errors, listed, refused, deleted, gone }));
