// BERT's normalizer and splitting by tables of characters, so that the browser's version of Unicode does not matter.

/** A text -> the text as BERT's normalizer leaves it; one character at a time, since each has its own answer. */
export function bertNormalizer(table) {
  const became = new Map(Object.entries(table.changed));
  for (const code of codes(table.removed)) became.set(String.fromCodePoint(code), "");
  for (const code of codes(table.blank)) became.set(String.fromCodePoint(code), " ");
  return (text) => {
    let out = "";
    for (const letter of text) {
      const code = letter.codePointAt(0);
      if (code >= 0xac00 && code <= 0xd7a3) out += table.syllables ? letter.normalize("NFD") : letter;
      else if (code > 0x2e7f && holds(table.spaced, code)) out += ` ${letter} `;
      else out += became.get(letter) ?? letter;
    }
    return out;
  };
}

/** A text -> its words; punctuation stands alone. */
export function bertSplitter(table) {
  const blank = new Set(codes(table.blank));
  const alone = new Set(codes(table.alone));
  return (text) => {
    const words = [];
    let word = "";
    const end = () => {
      if (word) words.push(word);
      word = "";
    };
    for (const letter of text) {
      const code = letter.codePointAt(0);
      if (!blank.has(code) && !alone.has(code)) word += letter;
      else {
        end();
        if (alone.has(code)) words.push(letter);
      }
    }
    end();
    return words;
  };
}

function* codes(ranges) {
  for (const [first, last] of ranges) for (let code = first; code <= last; code++) yield code;
}

function holds(ranges, code) {
  return ranges.some(([first, last]) => first <= code && code <= last);
}
