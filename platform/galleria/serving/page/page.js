// The search page. A query is {text}, {picture: Blob, name} or {like: id}; it runs, and its answer is shown.

const PAGE = 24;
const at = (id) => document.getElementById(id);
const view = Object.fromEntries(
  ["form", "words", "file", "examples", "notice", "results", "query", "picture", "title", "sub", "hits", "more",
   "footer", "timing", "origin", "home", "wall", "samples"].map((id) => [id, at(id)]));

const pictures = new Map();  // pictures of this visit, so that going back finds them
let running = null;          // AbortController of the search under way
let current = null;          // the query whose answer is shown
let most = 1000;             // largest k

// Asking

async function run(query, k = PAGE) {
  running?.abort();
  const mine = running = new AbortController();
  busy(true);
  try {
    const { answer, title, picture } = await ask(query, k, mine.signal);
    current = { query, k };
    show(query, answer, title, picture, k);
  } catch (problem) {
    if (mine.signal.aborted) return;
    if (query.picture) {
      showQuery(query.name || "Your picture", query.picture);
      view.words.value = "";
      view.sub.textContent = "Choose another picture, or describe it in words.";
    }
    complain(problem);
  } finally {
    if (running === mine) busy(false);
  }
}

async function ask(query, k, signal) {
  if (query.text) return { answer: await search(asJson({ text: query.text, k }), signal), title: `“${query.text}”` };
  if (query.picture) return { answer: await search(asForm(query.picture, k), signal), title: "Similar to your picture", picture: query.picture };
  const path = `v1/items/${encodeURIComponent(query.like)}`;
  const [item, picture] = await Promise.all([
    call(path, { signal }).then((answer) => answer.json()),
    call(`${path}/image`, { signal }).then((answer) => answer.blob()),
  ]);
  const answer = await search(asForm(picture, Math.min(k + 1, most)), signal);
  answer.hits = answer.hits.filter((hit) => hit.id !== query.like).slice(0, k);
  return { answer, title: `More like ${item.item.title || item.id}`, picture };
}

const asJson = (body) => ({ body: JSON.stringify(body), headers: { "content-type": "application/json" } });

function asForm(picture, k) {
  const body = new FormData();
  body.append("image", picture, "query");
  body.append("k", k);
  return { body };
}

const search = async (request, signal) => (await call("v1/search", { method: "POST", signal, ...request })).json();

async function call(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw { status: 0, detail: "Check that it is running, then try again." };
  }
  if (answer.ok) return answer;
  throw await answer.json().catch(() => ({ status: answer.status, detail: "Try again in a moment." }));
}

// Showing

function show(query, answer, title, picture, k) {
  view.notice.hidden = true;
  view.words.value = query.text || "";
  showQuery(title, picture);
  const count = answer.hits.length;
  view.sub.textContent = count
    ? `${count} of ${answer.catalog.count.toLocaleString("en")}, most alike first. Choose one for more like it.`
    : "The catalogue holds nothing else.";
  view.hits.replaceChildren(...answer.hits.map(card));
  view.more.hidden = count < k || k >= most || count >= answer.catalog.count - 1;
  const { read_ms, embed_ms, search_ms, fetch_ms } = answer.stages;
  const parts = { read: read_ms, embed: embed_ms, search: search_ms, fetch: fetch_ms };
  const spent = Object.entries(parts).map(([name, value]) => `${name} ${value.toFixed(1)}`).join(" · ");
  view.timing.textContent = `${answer.latency_ms.toFixed(0)} ms: ${spent}`;
  view.origin.textContent = `${answer.model.family} ${answer.model.hash.slice(0, 8)} · catalogue version ${answer.catalog.version}`;
  view.footer.hidden = false;
  document.title = `${title} · galleria`;
}

function showQuery(title, picture) {
  document.body.classList.add("searched");
  view.results.hidden = false;
  view.title.textContent = title;
  view.sub.textContent = "";
  view.query.hidden = !picture;
  view.hits.replaceChildren();
  view.more.hidden = view.footer.hidden = true;
  if (view.picture.src) URL.revokeObjectURL(view.picture.src);
  if (picture) view.picture.src = URL.createObjectURL(picture);
  else view.picture.removeAttribute("src");
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

const HEADLINES = {
  0: "The service does not answer.",
  413: "That picture is too large.",
  415: "That file is not a picture that can be read.",
  404: "It is not in the catalogue.",
  422: "That cannot be searched for.",
  503: "The service is busy or starting.",
};

function complain(problem) {
  const [headline, detail] = view.notice.children;
  headline.textContent = problem.type === "urn:galleria:problem:broken-media"
    ? "That picture is damaged." : HEADLINES[problem.status] || "Something went wrong.";
  detail.textContent = sentence(problem.detail || "Try again in a moment.")
    + (problem.status === 500 ? ` (request ${problem.request_id})` : "");
  view.notice.hidden = false;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

function busy(on) {
  document.body.classList.toggle("busy", on);
  view.results.setAttribute("aria-busy", on);
}

function rest() {
  running?.abort();
  current = null;
  busy(false);
  document.body.classList.remove("searched");
  view.results.hidden = view.footer.hidden = view.notice.hidden = true;
  view.words.value = "";
  document.title = "galleria";
}

// Going from one query to the next

function go(query) {
  if (query.picture) {
    const key = String(pictures.size);
    pictures.set(key, query);
    history.pushState({ key }, "", "?picture");
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
  else if (pictures.has(history.state?.key)) run(pictures.get(history.state.key));
  else rest();
}

const goPicture = (file) => file && go({ picture: file, name: file.name });

view.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = view.words.value.trim();
  if (text) go({ text });
  else view.words.focus();
});
view.file.addEventListener("change", () => {
  goPicture(view.file.files[0]);
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
view.more.addEventListener("click", () => run(current.query, Math.min(current.k * 2, most)));
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
  goPicture(file);
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
  goPicture(event.dataTransfer.files[0]);
});

// What there is to search: whether words are understood, and a few items to begin with

async function prepare() {
  const [{ models: [model] }, limits] = await Promise.all(["v1/models", "v1/limits"].map((path) => call(path).then((answer) => answer.json())));
  most = limits.results;
  if (!model.inputs.includes("text")) {
    at("headline").textContent = "Find it by a picture.";
    view.words.disabled = true;
    view.words.placeholder = "This model searches by picture only";
  }
  const vector = Array.from({ length: model.dimension }, () => Math.random() - 0.5);  // anywhere in the catalogue
  const { hits } = await search(asJson({ vector, k: Math.min(100, most) }));
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
