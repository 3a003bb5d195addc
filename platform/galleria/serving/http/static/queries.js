// Sends a query to the service, and words its title and summary.

import { newest, readItem, readPicture } from "./catalogue.js";
import { asDataUri, asForm, asJson, post } from "./service.js";

// Hits of {query, k, weights}, and the subject of what is similar to a picture: {picture, name, item}. The subject may
// be known from before. A model with so many `levels` is sent the picture: only what it embeds has levels.
export async function ask({ query, k, weights, subject }, { levels, maxResults, signal }) {
  const filter = query.within && { category: { $prefix: query.within } };
  const min_version = newest();
  const search = (request) => post("v1/search", request, signal);
  const described = (like) => search(asJson({ ...like, k, filter, min_version }));
  const pictured = (image, count) => search(asForm({
    image, k: count, filter: JSON.stringify(filter), min_version, level_weights: weights?.join(","),
  }));
  const mixed = (like) => described({ mix: [
    { ...like, weight: 1 - query.share },
    { text: query.words, weight: query.share },
  ] });

  if (query.text) return { answer: await described({ text: query.text }) };
  if (query.picture) {
    const answer = await (query.words ? mixed({ image: await asDataUri(query.picture) }) : pictured(query.picture, k));
    return { answer, subject: { picture: query.picture } };
  }
  const finding = subject || subjectOf(query.like, signal);
  const found = levels && !query.words && await finding;
  if (found?.picture) {
    const answer = await pictured(found.picture, Math.min(k + 1, maxResults));
    answer.hits = answer.hits.filter((hit) => hit.id !== query.like).slice(0, k);
    return { answer, subject: found };
  }
  const searching = query.words ? mixed({ item: query.like }) : described({ item: query.like });
  searching.catch(() => {});  // where there is no such item, `finding` says so
  return { subject: await finding, answer: await searching };
}

async function subjectOf(id, signal) {
  const [item, picture] = await Promise.all([readItem(id, signal), readPicture(id, { signal }).catch(() => null)]);
  return { item, picture, name: item.title || id };
}

export function titleOf({ text, like, words }, subject) {
  if (text) return `“${text}”`;
  const title = like ? `More like ${subject.name}` : "Similar to your picture";
  return words ? `${title}, and “${words}”` : title;
}

// The number of hits, and the category that they are in.
export function summary({ query, k }, { hits, catalog, partial, shards, no_match: noMatch }) {
  const within = query.within?.join(" › ");
  const some = partial
    ? ` Only ${shards.searched} of ${shards.total} parts of the catalogue could be searched: there may be better ones.`
    : "";
  if (!hits.length) return (within ? `There is nothing else in ${within}.` : "The catalogue holds nothing else.") + some;
  const all = within && hits.length === k
    ? `The ${k} most alike in ${within}.`
    : `${hits.length} ${within ? `in ${within}` : `of ${catalog.count.toLocaleString("en")}`}, most alike first.`;
  const strangers = noMatch && !query.text ? " None is as alike as the same product would be." : "";
  return `${all}${strangers} Choose one for more like it.${some}`;
}
