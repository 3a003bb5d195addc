// A query as an address, and back, so that going back and reloading find it. Of a file only the kind is in it.

const LEAST = 0.05;  // of either part of a mix: without it, it is none

export const fitting = (share) => Math.min(1 - LEAST, Math.max(LEAST, Number(share) || 0.5));

export function addressOf({ text, like, video, within, words, share }) {
  const asked = new URLSearchParams();
  if (text) asked.set("text", text);
  else if (like) asked.set("like", like);
  else asked.set(video ? "video" : "picture", "");
  for (const name of within || []) asked.append("in", name);
  if (words) {
    asked.set("words", words);
    asked.set("share", share);
  }
  return `?${String(asked).replace(/^(picture|video)=/, "$1")}`;
}

// The query at an address, or null; `file` is {picture} or {video} of this visit, where one belongs to it.
export function queryAt(address, file) {
  const asked = new URLSearchParams(address);
  const [text, like, within, words] = [asked.get("text"), asked.get("like"), asked.getAll("in"), asked.get("words")];
  const query = text ? { text } : like ? { like } : file && { ...file };
  if (!query) return null;
  if (within.length) query.within = within;
  if (words) Object.assign(query, { words, share: fitting(asked.get("share")) });
  return query;
}

// Whether two queries differ in no more than their category and the words beside the picture.
export const sameSubject = (one, other) => ["text", "like", "picture", "video"].every((kind) => one[kind] === other[kind]);
