// npm @vladmandic/face-api: its own predictExpressions, which resizes to 112x112 and normalises by itself.

import fs from "node:fs";
import path from "node:path";
import { colour, countParameters, startTfjs } from "./tfjs.mjs";

const ORDER = ["neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised"];

export async function openPeer(require, folder) {
  const tf = await startTfjs(require);
  const home = path.join(folder, "node_modules", "@vladmandic", "face-api");
  const faceapi = require(path.join(home, "dist", "face-api.node-wasm.js"));
  const net = faceapi.nets.faceExpressionNet;
  await net.loadFromDisk(path.join(home, "model"));
  const manifest = fs.readFileSync(path.join(home, "model", "face_expression_model-weights_manifest.json"), "utf8");

  const predict = async (grey) => {
    const picture = tf.tensor3d(colour(grey, 1, new Int32Array(3 * grey.length)), [48, 48, 3], "int32");
    const expressions = await net.predictExpressions(picture);
    picture.dispose();
    return ORDER.map((name) => expressions[name]);
  };
  return {
    predict,
    modelBytes: fs.statSync(path.join(home, "model", "face_expression_model.bin")).size,
    parameters: countParameters(JSON.parse(manifest).flatMap((group) => group.weights)),
  };
}
