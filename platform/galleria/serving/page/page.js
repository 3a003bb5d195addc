// The page. A query is {text}, {picture: Blob, name}, {video: Blob, name} or {like: id}; it runs, and its answer is shown.

import { cardsOf, failedCard, levelsCard } from "./insights.js";
import { asForm, asJson, call, get, post } from "./service.js";
import { eventsCard, timelineCard } from "./timeline.js";

const PAGE = 24;
const at = (id) => document.getElementById(id);
const view = Object.fromEntries(
  ["form", "words", "file", "choose", "examples", "notice", "results", "query", "picture", "title", "sub", "hits",
   "more", "footer", "timing", "origin", "home", "wall", "samples", "headline", "footage", "video", "unplayable",
   "stories", "levels", "insights", "go"].map((id) => [id, at(id)]));

const files = new Map();  // pictures and videos of this visit, so that going back finds them
let running = null;       // AbortController of the query under way
let changing = null;      // that of a change to its hits
let current = null;       // the query whose answer is shown
let most = 1000;          // largest k

const known = get("v1/models").then(({ models }) => ({  // who is there to ask
  search: models.find((model) => model.kind === "search"),
  classify: models.filter((model) => model.kind === "classify"),
  events: models.filter((model) => model.kind === "events"),
}));
known.catch(() => {});  // `prepare` tells of it

// Asking

async function run(query, k = PAGE) {
  stop();
  const mine = running = new AbortController();
  busy(true);
  try {
    if (query.video) await watch(query, mine.signal);
    else await look(query, k, mine.signal);
  } catch (problem) {
    if (mine.signal.aborted) return;
    if (query.picture || query.video) {
      showQuery(query.name || "Your file", query.picture);
      view.words.value = "";
      view.sub.textContent = "Choose another file, or describe it in words.";
    }
    complain(problem, query.video ? "video" : "picture");
  } finally {
    if (running === mine) busy(false);
  }
}

// Searches, and lets the models say what they see in the picture.
async function look(query, k, signal) {
  const { search } = await known.catch(() => ({ search: { levels: 0 } }));
  if (!search && query.picture) {
    showQuery(query.name || "Your picture", query.picture);
    current = { query, k };
    await classify(query.picture, signal, true);
    return;
  }
  const { answer, title, picture } = await ask(query, k, signal);
  current = { query, k };
  show(query, answer, title, picture, k, search.levels);
  if (picture) classify(picture, signal).catch(() => {});
}

async function ask(query, k, signal, weights) {
  const search = (request) => post("v1/search", request, signal);
  if (query.text) return { answer: await search(asJson({ text: query.text, k })), title: `“${query.text}”` };
  const level_weights = weights?.join(",");
  if (query.picture) {
    const answer = await search(asForm({ image: query.picture, k, level_weights }));
    return { answer, title: "Similar to your picture", picture: query.picture };
  }
  const path = `v1/items/${encodeURIComponent(query.like)}`;
  const [item, picture] = await Promise.all([
    get(path, signal),
    call(`${path}/image`, { signal }).then((answer) => answer.blob()),
  ]);
  const answer = await search(asForm({ image: picture, k: Math.min(k + 1, most), level_weights }));
  answer.hits = answer.hits.filter((hit) => hit.id !== query.like).slice(0, k);
  return { answer, title: `More like ${item.item.title || item.id}`, picture };
}

// Cards come as their models answer, each at its own place.
async function classify(picture, signal, alone = false) {
  const { classify: models } = await known;
  const places = models.map(() => document.createComment("card"));
  view.insights.append(...places);
  const problems = [];
  await Promise.all(models.map(async ({ name }, place) => {
    let cards;
    try {
      cards = cardsOf(await post(`v1/classify/${name}`, asForm({ image: picture }), signal), picture);
    } catch (problem) {
      if (signal.aborted) return;
      problems.push(problem);
      cards = [failedCard(name, problem)];
    }
    if (signal.aborted) return;
    places[place].replaceWith(...cards);
    view.insights.hidden = view.insights.childElementCount === 0;
  }));
  if (alone && problems.length && problems.length === models.length) throw problems[0];
}

async function watch(query, signal) {
  const { events: models } = await known;
  if (!models.length) throw { status: 404, type: "urn:galleria:problem:no-video", detail: "No model of this service reads videos." };
  showQuery(query.name || "Your video");
  view.words.value = "";
  view.sub.textContent = "Looking through it…";
  view.unplayable.hidden = true;
  view.video.src = URL.createObjectURL(query.video);
  view.footage.hidden = false;
  const answers = await Promise.all(models.map(({ name }) => post(`v1/events/${name}`, asForm({ video: query.video }), signal)));
  const frames = answers.reduce((count, { result }) => count + result.timeline.length, 0);
  view.sub.textContent = `${frames} frames were looked at. Choose a moment to see it.`;
  view.stories.replaceChildren(...answers.map(eventsCard), ...answers.map((answer) => timelineCard(answer, view.video)));
  tell(answers[0].latency_ms, answers[0].stages, answers[0].model);
  view.notice.hidden = true;
  current = { query };
  document.title = `${query.name || "Your video"} · galleria`;
}

// Showing

function show(query, answer, title, picture, k, count) {
  view.notice.hidden = true;
  view.words.value = query.text || "";
  showQuery(title, picture);
  if (answer.predicted.levels?.length) {
    view.levels.replaceChildren(levelsCard(answer.predicted.levels, count, (weights) => again({ query, weights, k: current.k })));
    view.levels.hidden = false;
  }
  showHits(answer, k);
  document.title = `${title} · galleria`;
}

// The same query with other weights of the levels, or for more hits: only the hits change.
async function again({ query, weights, k }) {
  changing?.abort();
  const mine = changing = new AbortController();
  busy(true);
  try {
    const { answer } = await ask(query, k, mine.signal, weights);
    current = { query, k, weights };
    view.notice.hidden = true;
    showHits(answer, k);
  } catch (problem) {
    if (!mine.signal.aborted) complain(problem, "picture");
  } finally {
    if (changing === mine) busy(false);
  }
}

function showHits(answer, k) {
  const count = answer.hits.length;
  view.sub.textContent = count
    ? `${count} of ${answer.catalog.count.toLocaleString("en")}, most alike first. Choose one for more like it.`
    : "The catalogue holds nothing else.";
  view.hits.replaceChildren(...answer.hits.map(card));
  view.more.hidden = count < k || k >= most || count >= answer.catalog.count - 1;
  tell(answer.latency_ms, answer.stages, answer.model, ` · catalogue version ${answer.catalog.version}`);
}

function tell(latency, stages, model, more = "") {
  const spent = Object.entries(stages).map(([name, value]) => `${name.replace("_ms", "")} ${value.toFixed(1)}`).join(" · ");
  view.timing.textContent = `${latency.toFixed(0)} ms: ${spent}`;
  view.origin.textContent = `${model.family} ${model.hash.slice(0, 8)}${more}`;
  view.footer.hidden = false;
}

function showQuery(title, picture) {
  document.body.classList.add("searched");
  view.results.hidden = false;
  view.title.textContent = title;
  view.sub.textContent = "";
  view.query.hidden = !picture;
  view.hits.replaceChildren();
  view.insights.replaceChildren();
  view.more.hidden = view.footer.hidden = view.insights.hidden = view.levels.hidden = true;
  letGo();
  if (view.picture.src) URL.revokeObjectURL(view.picture.src);
  if (picture) view.picture.src = URL.createObjectURL(picture);
  else view.picture.removeAttribute("src");
}

function letGo() {
  view.footage.hidden = true;
  view.stories.replaceChildren();
  if (!view.video.src) return;
  URL.revokeObjectURL(view.video.src);
  view.video.removeAttribute("src");
  view.video.load();
}

function card(hit, place) {
  const made = at("card").content.cloneNode(true);
  const part = (name) => made.querySelector(name);
  const name = hit.item.title || hit.id;
  const image = part("img");
  image.src = hit.item.image.slice(1);
  image.addEventListener("error", () => image.classList.add("missing"));
  part("a").href = `?like=${encodeURIComponent(hit.id)}`;
  part("a").dataset.like = hit.id;
  part("a").title = hit.item.text || name;
  part(".name").textContent = name;
  part(".score").textContent = hit.score.toFixed(2);
  part(".path").textContent = (hit.item.category || []).join(" › ");
  part(".source").textContent = hit.item.source || "";
  part("li").style.animationDelay = `${Math.min(place, 16) * 18}ms`;
  return made;
}

const headlines = (kind) => ({
  0: "The service does not answer.",
  413: `That ${kind} is too large.`,
  415: `That file is not a ${kind} that can be read.`,
  404: "It is not in the catalogue.",
  422: kind === "video" ? "That video cannot be used." : "That cannot be searched for.",
  503: "The service is busy or starting.",
  "urn:galleria:problem:broken-media": `That ${kind} is damaged.`,
  "urn:galleria:problem:no-video": "That is a video.",
});

function complain(problem, kind = "picture") {
  const [headline, detail] = view.notice.children;
  const known = headlines(kind);
  headline.textContent = known[problem.type] || known[problem.status] || "Something went wrong.";
  detail.textContent = sentence(problem.detail || "Try again in a moment.")
    + (problem.status === 500 ? ` (request ${problem.request_id})` : "");
  view.notice.hidden = false;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

function busy(on) {
  document.body.classList.toggle("busy", on);
  view.results.setAttribute("aria-busy", on);
}

function stop() {
  running?.abort();
  changing?.abort();
}

function rest() {
  stop();
  current = null;
  busy(false);
  letGo();
  document.body.classList.remove("searched");
  view.results.hidden = view.footer.hidden = view.notice.hidden = true;
  view.words.value = "";
  document.title = "galleria";
}

// Going from one query to the next

function go(query) {
  if (query.picture || query.video) {
    const key = String(files.size);
    files.set(key, query);
    history.pushState({ key }, "", query.video ? "?video" : "?picture");
  } else {
    history.pushState(null, "", `?${new URLSearchParams(query)}`);
  }
  window.scrollTo({ top: 0 });
  run(query);
}

function arrive() {
  const asked = new URLSearchParams(location.search);
  if (asked.get("text")) run({ text: asked.get("text") });
  else if (asked.get("like")) run({ like: asked.get("like") });
  else if (files.has(history.state?.key)) run(files.get(history.state.key));
  else rest();
}

const isVideo = (file) => file.type.startsWith("video/") || /\.(mp4|m4v|mov|mkv|webm|avi|ts)$/i.test(file.name || "");
const goFile = (file) => file && go({ [isVideo(file) ? "video" : "picture"]: file, name: file.name });

view.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = view.words.value.trim();
  if (text) go({ text });
  else view.words.focus();
});
view.file.addEventListener("change", () => {
  goFile(view.file.files[0]);
  view.file.value = "";
});
const follow = (event) => {
  const chosen = event.target.closest("a");
  if (!chosen || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  go({ like: chosen.dataset.like });
};
view.hits.addEventListener("click", follow);
view.samples.addEventListener("click", follow);
view.picture.addEventListener("error", () => { view.query.hidden = true; });  // whatever was sent, it is no picture
view.video.addEventListener("error", () => { view.unplayable.hidden = !view.video.getAttribute("src"); });
view.more.addEventListener("click", () => again({ ...current, k: Math.min(current.k * 2, most) }));
view.home.addEventListener("click", (event) => {
  event.preventDefault();
  history.pushState(null, "", "./");
  rest();
  view.words.focus();
});
view.examples.addEventListener("click", (event) => event.target.matches("button") && go({ text: event.target.textContent }));
addEventListener("popstate", arrive);
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files][0];
  if (file) event.preventDefault();
  goFile(file);
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target === view.words) return;
  event.preventDefault();
  view.words.focus();
});

let depth = 0;  // dragenter and dragleave also fire for every child
const dragging = (change) => {
  depth = Math.max(0, depth + change);
  document.body.classList.toggle("dragging", depth > 0);
};
addEventListener("dragenter", () => dragging(1));
addEventListener("dragleave", () => dragging(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragging(-depth);
  goFile(event.dataTransfer.files[0]);
});

// What there is to ask: whether words and videos are understood, and a few items to begin with

async function prepare() {
  const [{ search, events }, limits] = await Promise.all([known, get("v1/limits")]);
  most = limits.results;
  if (events.length) {
    view.file.accept = "image/*,video/*";
    view.choose.title = view.file.ariaLabel = "Choose a picture or a video";
    view.choose.querySelector("span").textContent = "File";
    document.querySelectorAll(".videos").forEach((part) => { part.hidden = false; });
  }
  if (!search?.inputs.includes("text")) {
    view.headline.textContent = search ? "Find it by a picture." : "See what the models see.";
    view.words.disabled = view.go.hidden = true;
    view.words.placeholder = search ? "This model searches by picture only" : `Choose a picture${events.length ? " or a video" : ""}`;
  }
  if (!search) return;
  const vector = Array.from({ length: search.dimension }, () => Math.random() - 0.5);  // anywhere in the catalogue
  const { hits } = await post("v1/search", asJson({ vector, k: Math.min(100, most) }));
  hits.sort(() => Math.random() - 0.5);
  view.samples.replaceChildren(...hits.slice(0, 8).map(card));
  view.wall.hidden = hits.length === 0;
  const titles = [...new Set(hits.map((hit) => hit.item.title).filter((title) => title && title.length < 24))];
  view.examples.append(...titles.slice(0, 5).map((title) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title.toLowerCase();
    return button;
  }));
  view.examples.hidden = titles.length === 0 || view.words.disabled;
}

arrive();
prepare().catch(complain);
