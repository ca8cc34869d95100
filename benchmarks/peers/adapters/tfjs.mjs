// TensorFlow.js on its WebAssembly backend: the fastest one that its packages carry themselves
// (tfjs-node fetches a native library from elsewhere when it is installed).

import path from "node:path";

// Loads and starts it; `require` resolves from the peers' npm folder.
export async function startTfjs(require) {
  const tf = require("@tensorflow/tfjs");
  const wasm = require("@tensorflow/tfjs-backend-wasm");
  wasm.setWasmPaths(path.dirname(require.resolve("@tensorflow/tfjs-backend-wasm")) + path.sep);
  if (!(await tf.setBackend("wasm"))) throw new Error("TensorFlow.js cannot start its WebAssembly backend");
  await tf.ready();
  return tf;
}

// Grey 48x48 bytes to the three equal channels of a colour picture, each value times `scale`.
export function colour(grey, scale, out) {
  for (let i = 0; i < grey.length; i += 1) out[3 * i] = out[3 * i + 1] = out[3 * i + 2] = grey[i] * scale;
  return out;
}

export const countParameters = (specs) =>
  specs.reduce((sum, spec) => sum + (spec.dtype === "float32" ? spec.shape.reduce((a, b) => a * b, 1) : 0), 0);
