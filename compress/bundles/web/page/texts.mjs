// Texts to the model's inputs, as the Python library `tokenizers` makes them.
import { Tokenizer } from "./@huggingface/tokenizers/tokenizers.min.mjs";
import { bertNormalizer, bertSplitter } from "./bert.mjs";

/** The function that turns a text into token ids: numbers, special tokens included, cut at the model's length. */
export function textEncoder(tokenizerJson, page) {
  const tokenizer = new Tokenizer({ ...tokenizerJson, truncation: null, padding: null }, {});
  const { normalizer, splitting } = page.characters;
  if (normalizer) tokenizer.normalizer = bertNormalizer(normalizer);
  if (splitting) tokenizer.pre_tokenizer = bertSplitter(splitting);
  const room = page.max_length - page.before.length - page.after.length;
  const wanted = page.texts ?? {};
  return (text) => {
    const ids = tokenizer.encode(prepared(text, wanted), { add_special_tokens: false }).ids;
    const first = wanted.cut === "left" ? Math.max(0, ids.length - room) : 0;
    return [...page.before, ...ids.slice(first, first + room), ...page.after];
  };
}

// What Python strips; `trim` of JavaScript strips other characters.
const BLANKS = "[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]+";
const ENDS = new RegExp(`^${BLANKS}|${BLANKS}$`, "g");

/** What the tokenizer gets: a prefix, no blanks at the ends, lower case, as far as the model wants it. */
function prepared(text, wanted) {
  let made = (wanted.prefix ?? "") + text;
  if (wanted.strip) made = made.replace(ENDS, "");
  return wanted.lowercase ? made.toLowerCase() : made;
}

/** One text's token ids as tensors (1, tokens) by name. */
export function tokenInputs(ids, names, Tensor) {
  const shape = [1, ids.length];
  const filled = (value) => BigInt64Array.from(ids, () => value);
  const known = {
    input_ids: () => BigInt64Array.from(ids, BigInt),
    attention_mask: () => filled(1n),
    token_type_ids: () => filled(0n),
  };
  return Object.fromEntries(names.map((name) => [name, new Tensor("int64", known[name](), shape)]));
}
