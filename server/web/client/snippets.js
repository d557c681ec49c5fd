// The request of a job as something to paste elsewhere. Pure.

/** As a shell command. `origin` is where this page came from, `isKeyed` whether a key is asked for. */
export function asCurl(body, origin, isKeyed) {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  const key = isKeyed ? ` \\\n  -H "Authorization: Bearer $R3_KEY"` : "";
  return `curl ${origin}/generate \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${quoted}'`;
}

/** As a Python program, which needs httpx. */
export function asPython(body, origin, isKeyed) {
  const key = isKeyed ? `\nheaders = {"Authorization": f"Bearer {os.environ['R3_KEY']}"}` : "\nheaders = {}";
  return `${isKeyed ? "import os\n" : ""}import time

import httpx

server = "${origin}"${key}
request = ${literal(body)}

with httpx.Client(base_url=server, headers=headers, timeout=None) as client:
    answer = client.post("/generate", json=request, headers={"Prefer": "wait=60"})
    answer.raise_for_status()
    job = answer.json()
    while job["status"] in ("queued", "running"):  # the wait was over before the job was
        time.sleep(1)
        job = client.get(f"/jobs/{job['id']}").json()
    for trajectory in job["trajectories"]:
        image = trajectory["image"]
        with open(f"{image['id']}.{image['format']}", "wb") as file:
            file.write(client.get(image["url"]).content)
        print(trajectory["stop_reason"], file.name)
`;
}

/** As a Python program with the `openai` package: what OpenAI has no word for goes into `r3`. */
export function asOpenAI(body, origin, isKeyed) {
  const { prompt, model, n, size, output_format: format, output_compression: compression, ...r3 } = body;
  const known = { model, prompt, n, size, output_format: format, output_compression: compression };
  const given = Object.entries(known).filter(([, value]) => value !== undefined);
  if (Object.keys(r3).length) given.push(["extra_body", { r3 }]);
  return `import base64
${isKeyed ? "import os\n" : ""}
from openai import OpenAI

client = OpenAI(base_url="${origin}/v1", api_key=${isKeyed ? `os.environ["R3_KEY"]` : `"none"`})
answer = client.images.generate(
${given.map(([name, value]) => `    ${name}=${literal(value, "    ")},`).join("\n")}
)
for index, image in enumerate(answer.data):
    with open(f"picture-{index}.${format ?? "png"}", "wb") as file:
        file.write(base64.b64decode(image.b64_json))
`;
}

/** A JSON value as Python writes it. */
function literal(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  if (Array.isArray(value)) return `[${value.map((v) => literal(v, deeper)).join(", ")}]`;
  const parts = Object.entries(value).map(([k, v]) => `${deeper}${JSON.stringify(k)}: ${literal(v, deeper)},`);
  return parts.length ? `{\n${parts.join("\n")}\n${indent}}` : "{}";
}
