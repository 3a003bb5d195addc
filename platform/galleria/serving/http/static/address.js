// A query as an address, and back, so that going back and reloading find it. Of a file only the kind is in it.

const MIN_SHARE = 0.05;  // of either part of a mix

export const fitting = (share) => Math.min(1 - MIN_SHARE, Math.max(MIN_SHARE, Number(share) || 0.5));

export function addressOf({ text, like, video, within, words, share }) {
  const params = new URLSearchParams();
  if (text) params.set("text", text);
  else if (like) params.set("like", like);
  else params.set(video ? "video" : "picture", "");
  for (const name of within || []) params.append("in", name);
  if (words) {
    params.set("words", words);
    params.set("share", share);
  }
  return `?${String(params).replace(/^(picture|video)=/, "$1")}`;
}

// The query at an address, or null; `file` is {picture} or {video} of this visit, where one belongs to it.
export function queryAt(address, file) {
  const params = new URLSearchParams(address);
  const [text, like, within, words] = [params.get("text"), params.get("like"), params.getAll("in"), params.get("words")];
  const query = text ? { text } : like ? { like } : file && { ...file };
  if (!query) return null;
  if (within.length) query.within = within;
  if (words) Object.assign(query, { words, share: fitting(params.get("share")) });
  return query;
}

// Whether two queries differ in no more than their category and the words added to the picture.
export const sameSubject = (one, other) => ["text", "like", "picture", "video"].every((kind) => one[kind] === other[kind]);
