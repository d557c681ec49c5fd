// What the `openai` package for Node sees of a server: one JSON object, a case a name, on standard output.
// node cases.mjs BASE_URL PICTURE_BASE64
import OpenAI, { toFile } from "openai";

const [base, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: "none", maxRetries: 0 });
const few = { generate: { num_timesteps: 5 }, refine: { num_timesteps: 5 } };
const upload = () => toFile(Buffer.from(picture, "base64"), "picture.png", { type: "image/png" });

async function raised(act) {
  try {
    await act();
  } catch (error) {
    return { name: error.constructor.name, code: error.code, param: error.param, is_api_error: error instanceof OpenAI.APIError };
  }
  return null;
}

async function all(stream) {
  const events = [];
  for await (const { type, partial_image_index, b64_json, r3 } of stream) {
    events.push({ type, partial_image_index, b64_json, r3 });
  }
  return events;
}

const cases = {
  models: async () => (await client.models.list()).data.map(({ id, object }) => ({ id, object })),
  generated: () => client.images.generate({ prompt: "a cat edits=1", model: "fake", size: "auto", r3: few }),
  links: () => client.images.generate({ prompt: "a cat", n: 2, response_format: "url", r3: { ...few, max_rounds: 0 } }),
  edited: async () =>
    client.images.edit({
      image: await upload(),
      prompt: "Add a hat.",
      r3: { ...few, seed: 5, early_stop: false, generate: { cfg_interval: [0.4, 1] } },
    }),
  streamed: async () =>
    all(
      await client.images.generate({
        prompt: "a cat edits=2",
        stream: true,
        partial_images: 2,
        r3: { ...few, max_rounds: 2 },
      }),
    ),
  edit_streamed: async () =>
    all(
      await client.images.edit({
        image: await upload(),
        prompt: "Add a hat.",
        stream: true,
        partial_images: 2,
        r3: { ...few, prompt: "x edits=2" },
      }),
    ),
  cancelled: async () => {
    const stream = await client.images.generate({
      prompt: "a cat edits=8",
      stream: true,
      partial_images: 3,
      r3: { ...few, refine: { num_timesteps: 200 }, max_rounds: 8 },
    });
    for await (const event of stream) {
      stream.controller.abort();
      return event.r3.job_id;
    }
  },
  invalid: () => raised(() => client.images.generate({ prompt: "a cat", size: "100x100" })),
  malformed: () => raised(async () => client.images.edit({ image: await upload(), prompt: "a", r3: "{nonsense" })),
  unknown_model: () => raised(() => client.images.generate({ prompt: "a cat", model: "gpt-image-1" })),
  failed: () => raised(() => client.images.generate({ prompt: "a cat raise=generate", r3: few })),
  failed_in_stream: () =>
    raised(async () =>
      all(await client.images.generate({ prompt: "a cat raise=refine", stream: true, r3: { ...few, max_rounds: 1 } })),
    ),
  several_pictures: () =>
    raised(async () => client.images.edit({ image: [await upload(), await upload()], prompt: "Add a hat." })),
};

const seen = {};
for (const [name, act] of Object.entries(cases)) {
  try {
    seen[name] = await act();
  } catch (error) {
    seen[name] = { unforeseen: `${error.constructor.name}: ${error.message}` };
  }
}
console.log(JSON.stringify(seen));
