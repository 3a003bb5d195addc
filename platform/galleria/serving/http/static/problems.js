// What went wrong, in words for whoever searches.

const headlines = (kind) => ({
  0: "The service does not answer.",
  413: `That ${kind} is too large.`,
  415: `That file is not a ${kind} that can be read.`,
  404: "It is not in the catalogue.",
  422: kind === "video" ? "That video cannot be used." : "That cannot be searched for.",
  429: "The service is busy.",
  503: "The service is busy or starting.",
  "urn:galleria:problem:broken-media": `That ${kind} is damaged.`,
  "urn:galleria:problem:no-video": "That is a video.",
});

export function headline(problem, kind) {
  const known = headlines(kind);
  return known[problem.type] || known[problem.status] || "Something went wrong.";
}

export const detail = (problem) => sentence(problem.detail || "Try again in a moment.")
  + (problem.status === 500 ? ` (request ${problem.request_id})` : "");

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
