// The page. A query is {text}, {picture: Blob, name}, {video: Blob, name} or {like: id}; it runs, and its answer is shown.
// All but videos may have a category, {within: [name, …]}, and what is similar to a picture words too: {words, share}.

import { addressOf, queryAt, sameSubject } from "./address.js";
import { editing, outcome } from "./editing.js";
import { restoreFocus, showCategories } from "./filters.js";
import { card } from "./hits.js";
import { cardsOf, failedCard, levelsCard } from "./insights.js";
import { mixing } from "./mix.js";
import { detail, headline } from "./problems.js";
import { ask, titleOf, summary } from "./queries.js";
import { asForm, asJson, get, post } from "./service.js";
import { eventsCard, timelineCard } from "./timeline.js";

const PAGE = 24;
const at = (id) => document.getElementById(id);
const view = Object.fromEntries(
  ["form", "words", "file", "choose", "examples", "notice", "results", "query", "picture", "title", "sub", "hits",
   "more", "footer", "timing", "origin", "home", "wall", "samples", "headline", "footage", "video", "unplayable",
   "stories", "levels", "insights", "go", "camera", "categories", "mix", "edit", "add", "item", "done"].map((id) => [id, at(id)]));

const files = new Map();  // pictures and videos of this visit, so that going back finds them
let running = null;       // AbortController of the query under way
let changing = null;      // that of a change to its hits
let current = null;       // {query, k, weights, subject} whose answer is shown or, after a change, will be
let maxResults = 1000;    // largest k
let reads = false;        // whether the search reads words
let writable = false;     // whether the catalogue can be changed

const known = get("v1/models").then(({ models }) => ({  // the models of the service
  search: models.find((model) => model.kind === "search"),
  classify: models.filter((model) => model.kind === "classify"),
  events: models.filter((model) => model.kind === "events"),
}));
known.catch(() => {});  // `prepare` reports it

// Asking

async function run(query, k = PAGE) {
  stop();
  current = null;
  view.done.textContent = "";
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
  const { answer, subject } = await ask({ query, k }, { levels: search?.levels, maxResults, signal });
  current = { query, k, subject };
  show(answer, search.levels);
  if (subject?.picture) classify(subject.picture, signal).catch(() => {});
}

// Cards come as their models answer, each at its own position.
async function classify(picture, signal, alone = false) {
  const { classify: models } = await known;
  const placeholders = models.map(() => document.createComment("card"));
  view.insights.append(...placeholders);
  const problems = [];
  await Promise.all(models.map(async ({ name }, index) => {
    let cards;
    try {
      cards = cardsOf(await post(`v1/classify/${name}`, asForm({ image: picture }), signal), picture);
    } catch (problem) {
      if (signal.aborted) return;
      problems.push(problem);
      cards = [failedCard(name, problem)];
    }
    if (signal.aborted) return;
    placeholders[index].replaceWith(...cards);
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
  showTimings(answers[0].latency_ms, answers[0].stages, answers[0].model);
  view.notice.hidden = true;
  current = { query };
  document.title = `${query.name || "Your video"} · galleria`;
}

// Showing

function show(answer, count) {
  const { query, subject } = current;
  view.words.value = query.text || "";
  showQuery(titleOf(query, subject), subject?.picture);
  view.levels.replaceChildren();
  if (answer.predicted.levels?.length) {
    view.levels.append(levelsCard(answer.predicted.levels, count, (weights) => change({ weights })));
  }
  showHits(answer);
}

// The same query with another category, other words, other weights of the levels, or more hits: only the hits change.
async function change(part) {
  if (!current) return;
  const next = current = { ...current, ...part };
  changing?.abort();
  const mine = changing = new AbortController();
  busy(true);
  try {
    const { search } = await known;
    const { answer } = await ask(next, { levels: search?.levels, maxResults, signal: mine.signal });
    if (!mine.signal.aborted) showHits(answer);
  } catch (problem) {
    if (!mine.signal.aborted) complain(problem, "picture");
  } finally {
    if (changing === mine) busy(false);
  }
}

function showHits(answer) {
  const { query, subject, k } = current;
  const count = answer.hits.length;
  const title = titleOf(query, subject);
  const chosen = document.activeElement?.matches("[data-within]");
  view.notice.hidden = true;
  view.done.textContent = "";
  document.title = `${title} · galleria`;
  view.title.textContent = title;
  view.sub.textContent = summary(current, answer);
  view.hits.replaceChildren(...answer.hits.map(card));
  showCategories(view.categories, query.within || [], answer.hits);
  if (chosen) restoreFocus(view.categories);
  view.levels.hidden = Boolean(query.words) || view.levels.childElementCount === 0;  // a mix weighs no levels
  view.more.hidden = count < k || k >= maxResults || count >= answer.catalog.count - 1;
  showActions();
  showTimings(answer.latency_ms, answer.stages, answer.model, ` · catalogue version ${answer.catalog.version}`);
}

// Shows what can be done with the query, as far as is known of the service.
function showActions() {
  if (!current) return;
  const { query } = current;
  view.mix.hidden = !(reads && (query.picture || query.like));
  if (!view.mix.hidden) showMix(query);
  view.edit.hidden = !(writable && query.like);
  view.add.hidden = !(writable && query.picture && !query.added);
}

function showTimings(latency, stages, model, more = "") {
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
  for (const part of ["more", "footer", "insights", "levels", "categories", "mix", "edit", "add"]) view[part].hidden = true;
  clearVideo();
  if (view.picture.src) URL.revokeObjectURL(view.picture.src);
  if (picture) view.picture.src = URL.createObjectURL(picture);
  else view.picture.removeAttribute("src");
}

function clearVideo() {
  view.footage.hidden = true;
  view.stories.replaceChildren();
  if (!view.video.src) return;
  URL.revokeObjectURL(view.video.src);
  view.video.removeAttribute("src");
  view.video.load();
}

function complain(problem, kind = "picture") {
  const [first, second] = view.notice.children;
  first.textContent = headline(problem, kind);
  second.textContent = detail(problem);
  view.notice.hidden = false;
}

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
  clearVideo();
  document.body.classList.remove("searched");
  view.results.hidden = view.footer.hidden = view.notice.hidden = true;
  view.words.value = "";
  document.title = "galleria";
}

// Going from one query to the next

// Of the same subject only the hits change; `replace` leaves no trace of the query before.
function go(query, replace = false) {
  if (query.picture || query.video) {
    query.key ??= String(files.size);
    const { picture, video, name, key, added } = query;
    files.set(key, { picture, video, name, key, added });
  }
  history[replace ? "replaceState" : "pushState"](query.key ? { key: query.key } : null, "", addressOf(query));
  if (!replace) window.scrollTo({ top: 0 });
  return travel(query);
}

const travel = (query) => current && !query.video && sameSubject(current.query, query)
  ? change({ query, k: PAGE })
  : run(query);

function arrive() {
  const query = queryAt(location.search, files.get(history.state?.key));
  if (query) travel(query);
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
for (const input of [view.file, view.camera]) {
  input.addEventListener("change", () => {
    goFile(input.files[0]);
    input.value = "";
  });
}
const follow = (event) => {
  const chosen = event.target.closest("a");
  if (!chosen || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  go({ like: chosen.dataset.like });
};
const narrow = (event) => {
  const within = event.target.closest("[data-within]")?.dataset.within;
  if (!within || !current) return;
  const { within: _, ...query } = current.query;
  go(within === "[]" ? query : { ...query, within: JSON.parse(within) });
};
view.hits.addEventListener("click", follow);
view.samples.addEventListener("click", follow);
view.hits.addEventListener("click", narrow);
view.categories.addEventListener("click", narrow);
view.picture.addEventListener("error", () => { view.query.hidden = true; });  // the file was not a picture
view.video.addEventListener("error", () => { view.unplayable.hidden = !view.video.getAttribute("src"); });
view.more.addEventListener("click", () => change({ k: Math.min(current?.k * 2, maxResults) }));
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
  if (event.key !== "/" || event.target.closest("input, textarea, dialog")) return;
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

const showMix = mixing(view.mix, ({ words, share }, slid) => {
  if (!current) return;
  const { words: _, share: __, ...query } = current.query;
  go(words ? { ...query, words, share } : query, slid);
});

// Changing the catalogue

const { edit, add } = editing(view.item, async (result) => {
  if (result.status === "created" && current?.query.picture) {
    current.query.added = files.get(current.query.key).added = true;
  }
  if (result.status !== "deleted") {
    if (current) await run(current.query, current.k);
  } else {
    [...view.samples.querySelectorAll("a")].find((sample) => sample.dataset.like === result.id)?.closest("li").remove();
    await leave(result);
  }
  view.done.textContent = outcome(result);
});

// What is like the item is still shown, by what it was.
function leave({ picture, text, name }) {
  if (picture) return go({ picture, name }, true);
  if (text && reads) return go({ text }, true);
  history.replaceState(null, "", "./");
  rest();
}

view.edit.addEventListener("click", () => current && edit(current.query.like, Boolean(current.subject.picture)).catch(complain));
view.add.addEventListener("click", () => current && add(current.query.picture, current.query.name));

// What there is to ask: whether words and videos are understood, and a few items to begin with

async function prepare() {
  const [{ search, events }, limits] = await Promise.all([known, get("v1/limits")]);
  maxResults = limits.results;
  if (events.length) {
    view.file.accept = "image/*,video/*";
    view.choose.title = view.file.ariaLabel = "Choose a picture or a video";
    view.choose.querySelector("span").textContent = "File";
    document.querySelectorAll(".videos").forEach((part) => { part.hidden = false; });
  }
  reads = Boolean(search?.inputs.includes("text"));
  if (search) get("v1/catalog").then((catalog) => { writable = catalog.writable; }, () => {}).then(showActions);
  if (!reads) {
    view.headline.textContent = search ? "Find it by a picture." : "See what the models see.";
    view.words.disabled = view.go.hidden = true;
    view.words.placeholder = search ? "This model searches by picture only" : `Choose a picture${events.length ? " or a video" : ""}`;
  }
  if (!search) return;
  const vector = Array.from({ length: search.dimension }, () => Math.random() - 0.5);  // anywhere in the catalogue
  const { hits } = await post("v1/search", asJson({ vector, k: Math.min(100, maxResults) }));
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
