// The twin of worker.py for peers that are npm packages: node worker.mjs JOB.

import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const FACE = 48 * 48;
const WARM_S = 1;
const WARM_QUERIES = 50;
const MOST_WARM_S = 3;

const memory = (field) => {
  try {
    const line = fs.readFileSync("/proc/self/status", "utf8").split("\n").find((text) => text.startsWith(`${field}:`));
    return Number(line.split(/\s+/)[1]) * 1024;
  } catch {
    return null;
  }
};

async function score(opened, faces, job) {
  const answers = [];
  for (const face of faces) answers.push(...(await opened.predict(face)));
  fs.writeFileSync(job.answers, Buffer.from(new Float32Array(answers).buffer));
  return {};
}

async function timed(opened, faces, job) {
  let state = job.seed + 1;
  // minstd: enough to draw faces in random order
  const draw = () => faces[(state = (state * 48271) % 2147483647) % faces.length];
  const clock = process.hrtime.bigint;
  let began = clock();
  for (let i = 0; ; i += 1) {
    const warm = Number(clock() - began) / 1e9;
    if (warm >= MOST_WARM_S || (warm >= WARM_S && i >= WARM_QUERIES)) break;
    await opened.predict(draw());
  }
  const taken = [];
  began = clock();
  for (;;) {
    const passed = Number(clock() - began) / 1e9;
    if (passed >= job.most_seconds || (passed >= job.seconds && taken.length >= job.queries)) break;
    const face = draw();
    const start = clock();
    await opened.predict(face);
    taken.push(Number(clock() - start));
  }
  return { times_ns: taken };
}

const job = JSON.parse(process.argv[2]);
const bytes = fs.readFileSync(job.images);
const faces = Array.from({ length: bytes.length / FACE }, (_, i) => bytes.subarray(i * FACE, (i + 1) * FACE));
const bare = memory("VmRSS");
const began = performance.now();
const { openPeer } = await import(`./adapters/${job.adapter}.mjs`);
const opened = await openPeer(createRequire(path.join(job.opens, "package.json")), job.opens);
const loadMs = performance.now() - began;
const done = await { score, time: timed }[job.mode](opened, faces, job);
const peak = memory("VmHWM");
fs.writeFileSync(
  job.result,
  JSON.stringify({
    load_ms: loadMs,
    memory_bytes: peak && bare ? peak - bare : null,
    model_bytes: opened.modelBytes,
    parameters: opened.parameters,
    ...done,
  }),
);
