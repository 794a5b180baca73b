// Asks a server through OpenAI's own client and prints what came back as one JSON object.
// Arguments: the URL of the API, a key, the folder with node_modules.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, apiKey, modules] = process.argv.slice(2);
const entry = createRequire(`${modules}/../`).resolve("openai");
const { default: OpenAI } = await import(pathToFileURL(entry).href);
const client = new OpenAI({ baseURL: url, apiKey, maxRetries: 0 });

async function outcome(work) {
  try {
    return await work();
  } catch (error) {
    const { status, code, param, type } = error;
    return { kind: error.constructor.name, status, code, param, type, requestId: error.requestID };
  }
}

const embed = (fields) => outcome(() => client.embeddings.create({ model: "words", ...fields }));

const found = {
  one: await embed({ input: "the cat sat on the mat" }),
  many: await embed({ input: ["the cat sat on the mat", "Zürich, 東京 and 🦊"], encoding_format: "float" }),
  base64: await embed({ input: "the cat sat on the mat", encoding_format: "base64" }),
  short: await embed({ input: "the cat sat on the mat", dimensions: 16 }),
  empty: await embed({ input: ["fine", ""] }),
  tooMany: await embed({ input: "a", dimensions: 100000 }),
  unknown: await embed({ input: "a", model: "text-embedding-3-small" }),
  models: (await client.models.list()).data,
  model: await outcome(() => client.models.retrieve("hashing")),
  stranger: await outcome(() => client.withOptions({ apiKey: "sk-not-known-0123456789" }).models.list()),
};
console.log(JSON.stringify(found));
