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
  return (text) => {
    const ids = tokenizer.encode(text, { add_special_tokens: false }).ids;
    return [...page.before, ...ids.slice(0, room), ...page.after];
  };
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
