// What every page does: find its parts, say how it stands, fetch its own files, tell what failed.

export const element = (id) => document.getElementById(id);

export function say(text) {
  element("state").textContent = text;
}

export async function fetched(file) {
  const answer = await fetch(file);
  if (!answer.ok) throw new Error(`${file}: ${answer.status} ${answer.statusText}`);
  return answer;
}

/** A handler of events that says what went wrong. */
export const guarded = (work) => async (event) => {
  event.preventDefault();
  try {
    await work(event);
  } catch (error) {
    say(`failed: ${error.message ?? error}`);
  }
};
