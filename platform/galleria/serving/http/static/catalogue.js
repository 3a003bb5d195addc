// Items of the catalogue: read, put and taken out. Nothing is read that is older than what this visit has written.

import { asDataUri, asJson, call, get } from "./service.js";

const FOLLOWED = 60_000;  // milliseconds after which every part of the service has seen a write

let version;
let when = -Infinity;

// The version that an answer must have reached, if any. Not for ever: another catalogue may replace this one.
export const newest = () => performance.now() - when < FOLLOWED ? version : undefined;

// URLs take "." and ".." for folders, percent-encoded too: an empty parameter makes them a name.
const at = (id) => `v1/items/${encodeURIComponent(id)}${[".", ".."].includes(id) ? ";" : ""}`;

export async function readItem(id, signal) {
  const minVersion = newest();
  return (await get(`${at(id)}${minVersion ? `?min_version=${minVersion}` : ""}`, signal)).item;
}

// An item's picture, or null where it has none.
export async function readPicture(id, options) {
  try {
    return await (await call(`${at(id)}/image`, options)).blob();
  } catch (problem) {
    if (problem.status === 404) return null;
    throw problem;
  }
}

export async function putItem(item, picture) {
  const image = picture ? await asDataUri(picture) : undefined;
  return written(await call("v1/items", { method: "PUT", ...asJson({ items: [{ ...item, image }] }) }));
}

// "absent" is deleted too: a first attempt of the service may have done it.
export async function deleteItem(id) {
  await written(await call(at(id), { method: "DELETE" }));
  return "deleted";
}

// What became of one item.
async function written(response) {
  const answer = await response.json();
  [version, when] = [answer.version, performance.now()];
  const [{ status, problem }] = answer.items;
  if (status === "rejected") throw { status: 422, detail: problem };
  return status;
}
