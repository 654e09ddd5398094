// The model of this folder: a session, what makes its inputs, one example at a time.
import * as ort from "./onnxruntime-web/ort.wasm.min.mjs";

// More threads would need headers that a plain server does not send.
ort.env.wasm.numThreads = 1;

/** A session on the bytes of an ONNX file. */
export function openSession(bytes) {
  return ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
}

/** One example's inputs -> its outputs as numbers (labels or width), and the milliseconds of the inference alone. */
export async function run(session, inputs) {
  const start = performance.now();
  const outputs = await session.run(inputs);
  const milliseconds = performance.now() - start;
  return { values: Array.from(outputs[session.outputNames[0]].data), milliseconds };
}

/** Probabilities. */
export function softmax(values) {
  const largest = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - largest));
  const sum = powers.reduce((total, value) => total + value, 0);
  return powers.map((value) => value / sum);
}

/** The cosine of the angle between two vectors. */
export function cosine(first, second) {
  const dot = (a, b) => a.reduce((total, value, place) => total + value * b[place], 0);
  return dot(first, second) / Math.sqrt(dot(first, first) * dot(second, second));
}

/** How far outputs are from the expected ones: the largest difference of a probability, or 1 less the cosine. */
export function distance(values, expected, labelled) {
  if (values.length !== expected.length) return Infinity;
  if (!labelled) return 1 - cosine(values, expected);
  const wanted = softmax(expected);
  return Math.max(...softmax(values).map((value, place) => Math.abs(value - wanted[place])));
}

export const Tensor = ort.Tensor;
