// A language model in a browser: texts to tokens, one token after the other, tokens to text; as predict.py does it.
import { Tokenizer } from "./@huggingface/tokenizers/tokenizers.min.mjs";

const PAST = "past_key_values.", PRESENT = "present.";
const PROBED = 256;
const ARRAYS = { float32: Float32Array, int8: Int8Array };

/** Texts to ids and back, by a `tokenizer.json`. */
export class Words {
  constructor(tokenizerJson, page) {
    this.tokenizer = new Tokenizer({ ...tokenizerJson, truncation: null, padding: null }, {});
    this.begin = page.begin_id;
    this.positions = page.positions ?? Infinity;
  }

  /** A text as ids; `begins`: behind the token that stands before every text, where it does not begin with it already. */
  ids(text, begins) {
    const { ids } = this.tokenizer.encode(text, { add_special_tokens: false });
    return begins && this.begin !== null && ids[0] !== this.begin ? [this.begin, ...ids] : [...ids];
  }

  text(ids) {
    const how = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
    return ids.length ? this.tokenizer.decode(ids, how) : "";
  }
}

/** A session with what it has read. */
export class Decoder {
  constructor(session, Tensor) {
    this.session = session;
    this.Tensor = Tensor;
    this.forget();
  }

  forget() {
    const kept = this.session.inputMetadata.filter(({ name }) => name.startsWith(PAST));
    this.read = [];
    this.past = Object.fromEntries(
      kept.map(({ name, type, shape }) => [name, new this.Tensor(type, new ARRAYS[type](0), [1, shape[1], 0, shape[3]])]),
    );
  }

  /** The logits of the token after these, behind what was read; all that was read anew where they begin otherwise. */
  async after(ids) {
    if (ids.length <= this.read.length || this.read.some((id, place) => id !== ids[place])) this.forget();
    const added = ids.slice(this.read.length);
    const whole = (numbers) => BigInt64Array.from(numbers, BigInt);
    const outputs = await this.session.run({
      input_ids: new this.Tensor("int64", whole(added), [1, added.length]),
      attention_mask: new this.Tensor("int64", whole(ids.map(() => 1)), [1, ids.length]),
      logit_positions: new this.Tensor("int64", whole([added.length - 1]), [1, 1]),
      ...this.past,
    });
    this.read = [...ids];
    for (const name of Object.keys(this.past)) this.past[name] = outputs[name.replace(PAST, PRESENT)];
    return outputs.logits.data;
  }
}

/** The logits that examples hold: of every n-th word. */
export function probed(logits) {
  const step = Math.max(1, Math.floor(logits.length / PROBED));
  return Array.from({ length: Math.min(PROBED, Math.ceil(logits.length / step)) }, (_, place) => logits[place * step]);
}

/** How far logits are from the expected ones, as a share of the largest of these. */
export function share(values, expected) {
  if (values.length !== expected.length) return Infinity;
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return values.reduce((most, value, place) => Math.max(most, Math.abs(value - expected[place])), 0) / largest;
}

/** The next token: the likeliest, or drawn among the likeliest that together have the probability `topP`. */
export function draw(logits, { temperature, topP }, random = Math.random) {
  if (temperature === 0) return logits.reduce((best, value, place) => (value > logits[best] ? place : best), 0);
  const order = Array.from(logits.keys()).sort((one, other) => logits[other] - logits[one]);
  const powers = order.map((place) => Math.exp((logits[place] - logits[order[0]]) / temperature));
  const sum = powers.reduce((total, power) => total + power, 0);
  let kept = 0, mass = 0;
  while (kept < powers.length && mass < topP * sum) mass += powers[kept++];
  let left = random() * mass;
  for (let place = 0; place < kept; place++) {
    left -= powers[place];
    if (left < 0) return order[place];
  }
  return order[Math.max(0, kept - 1)];
}

/** A prompt of ids behind which the model can write; it is refused where there is no room for an answer. */
export function withRoom(words, prompt) {
  if (prompt.length < words.positions) return prompt;
  throw new Error(`the prompt has ${prompt.length} tokens and the model holds ${words.positions}, so nothing can be `
    + "written behind it: shorten it");
}

/** The answer to a prompt of ids, in parts as they are known; `how.stopped()` is asked before every token. */
export async function* stream(decoder, words, prompt, how) {
  const most = Math.min(how.most, words.positions - withRoom(words, prompt).length);
  const ids = [];
  let told = "";
  while (ids.length < most && !how.stopped()) {
    const token = draw(await decoder.after([...prompt, ...ids]), how);
    if (how.ends.includes(token)) break;
    ids.push(token);
    const text = words.text(ids);
    // Half a letter may still become something else: of some tokenizers each of its bytes is a mark.
    const known = text.replace(/\ufffd+$/, "");
    if (known.startsWith(told)) {
      yield known.slice(told.length);
      told = known;
    }
  }
  yield words.text(ids).slice(told.length);
}

// What Python strips; `trim` of JavaScript strips other characters.
const BLANKS = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const AROUND = new RegExp(`^${BLANKS}|${BLANKS}$`, "g");

/** Messages, `{role, content}` each, as the text behind which the assistant answers. */
export function conversation(pieces, messages) {
  const text = messages.map(({ role, content }, place) => {
    const before = place ? pieces.between[`${messages[place - 1].role}>${role}`] : pieces.start[role];
    if (before === undefined) throw new Error("the model's chat template does not support this conversation");
    return before + (pieces.trim?.includes(role) ? content.replace(AROUND, "") : content);
  });
  return text.join("") + pieces.asks[messages.at(-1).role];
}

/** Messages without the oldest turns, so that an answer has room; as `fitted` of predictor.py. */
export function fitted(words, pieces, messages, most) {
  const kept = [...messages], room = Math.min(most, Math.floor(words.positions / 2));
  while (words.ids(conversation(pieces, kept), false).length + room > words.positions) {
    const [first, next] = kept.flatMap(({ role }, place) => (role === "user" ? [place] : []));
    if (next === undefined) break;
    kept.splice(first, next - first);
  }
  return kept;
}
