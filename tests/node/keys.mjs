// How the `openai` package for Node tells of keys and limits: one JSON object, a case a name, on standard output.
// node keys.mjs BASE_URL SECRET_OF_A_KEY_OF_FIFTEEN_REQUESTS_A_MINUTE
import OpenAI from "openai";

const [base, secret] = process.argv.slice(2);
const clientOf = (apiKey) => new OpenAI({ baseURL: `${base}/v1`, apiKey, maxRetries: 0 });

async function raised(act) {
  try {
    await act();
  } catch (error) {
    return { name: error.constructor.name, code: error.code, retry_after: error.headers?.get("retry-after") ?? null };
  }
  return null;
}

const limited = clientOf(secret);
console.log(
  JSON.stringify({
    stranger: await raised(() => clientOf("r3_nonsense").models.list()),
    limited: await raised(async () => {
      for (let i = 0; i < 40; i += 1) await limited.models.list();
    }),
  }),
);
