// What the models say of a picture: cards of classes with their probabilities, maps, and levels that can be weighed.

const MAX_CLASSES = 4;  // on a card

export function made(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

export const spoken = (name) => name.replaceAll(/[_-]+/g, " ");
export const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.01 ? 1 : 0)} %`;

// One line for each of `classes`: {name, probability, strong}.
export function bars(classes) {
  const list = made("ol", "bars");
  list.append(...classes.map(({ name, probability, strong }) => {
    const line = made("li", strong ? "strong" : "");
    const bar = made("span", "bar");
    bar.append(made("span", ""));
    bar.firstChild.style.width = `${Math.max(probability * 100, 0.5)}%`;
    line.append(made("span", "class", spoken(name)), made("span", "share", percent(probability)), bar);
    return line;
  }));
  return list;
}

export function card(title, verdict, origin, ...content) {
  const article = made("article", "insight");
  const heading = made("h3", "");
  heading.append(made("span", "", spoken(title)));
  article.append(heading);
  if (verdict) article.append(made("p", "verdict", spoken(verdict)));
  article.append(...content);
  if (origin) article.append(made("p", "by", origin));
  return article;
}

// A model's answer as cards, by what is in it: classes on their own or under names, and maps of numbers.
export function cardsOf(answer, picture) {
  const { result, model, latency_ms } = answer;
  const origin = `${model.name} · ${latency_ms.toFixed(0)} ms`;
  return Object.entries({ [model.name]: result, ...result }).flatMap(([title, part]) => {
    if (isClasses(part?.classes)) return [classesCard(title, part.classes, origin)];
    if (isMap(part)) return [mapCard(`${model.name} ${title}`, part, picture, origin)];
    return [];
  });
}

export const failedCard = (name, problem) => card(name, "", "", made("p", "failed", problem.detail || "No answer."));

const isClasses = (value) => Array.isArray(value) && value.length > 0 && "probability" in value[0];
const isMap = (value) => Array.isArray(value) && value.length > 0 && Array.isArray(value[0]) && Number.isFinite(value[0][0]);

function classesCard(title, classes, origin) {
  const shown = classes.slice(0, MAX_CLASSES).map((one, index) => ({ ...one, strong: index === 0 }));
  return card(title, classes[0].name, origin, bars(shown));
}

function mapCard(title, map, picture, origin) {
  const box = made("div", "overlay");
  const image = made("img", "");
  image.alt = "";
  image.src = URL.createObjectURL(picture);
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  box.append(image, drawn(map));
  return card(title, "", origin, box);
}

// The map in the page's accent, transparent where it is low.
function drawn(map) {
  const canvas = made("canvas", "");
  canvas.height = map.length;
  canvas.width = map[0].length;
  const pen = canvas.getContext("2d");
  const peak = Math.max(...map.flat(), 1e-9);
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  map.forEach((line, y) => line.forEach((value, x) => {
    pen.globalAlpha = Math.max(0, value / peak) ** 1.5;
    pen.fillRect(x, y, 1, 1);
  }));
  return canvas;
}

// The levels of a category tree: the likeliest classes of each, and sliders for how much each of `count` levels counts
// (the last may be the product itself, without classes). `weigh` gets the weights, or undefined for the model's own.
export function levelsCard(levels, count, weigh) {
  const list = made("ol", "levels");
  const article = card(count ? "Category, and how much each level counts" : "Category", "", "", list);
  const lines = Array.from({ length: Math.max(count, levels.length) }, (_, index) => {
    const line = made("li", "");
    const name = levels[index] ? `Level ${levels[index].level}` : "Product";
    const chips = made("span", "chips");
    const likely = levels[index]?.classes.filter((one, rank) => rank === 0 || one.probability >= 0.01) || [];
    chips.append(...likely.slice(0, 3).map(chip));
    line.append(made("span", "level", name), chips);
    list.append(line);
    return { line, name };
  });
  if (!count) return article;
  const sliders = lines.map(({ line, name }) => {
    const slider = made("input", "");
    Object.assign(slider, { type: "range", min: 0, max: 1, step: 0.01, value: 0.5, ariaLabel: `Weight of ${name}` });
    line.append(slider, made("output", ""));
    return slider;
  });
  const reset = made("button", "reset", "Reset");
  reset.type = "button";
  reset.hidden = true;
  article.firstChild.append(reset);
  let waiting;
  const later = (action) => {
    clearTimeout(waiting);
    waiting = setTimeout(action, 200);
  };
  list.addEventListener("input", () => {
    const weights = sliders.map((slider) => Number(slider.value));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    sliders.forEach((slider, index) => { slider.nextSibling.textContent = sum ? percent(weights[index] / sum) : "–"; });
    reset.hidden = false;
    later(() => sum && weigh(weights));
  });
  reset.addEventListener("click", () => {
    for (const slider of sliders) {
      slider.value = 0.5;
      slider.nextSibling.textContent = "";
    }
    reset.hidden = true;
    later(() => weigh(undefined));
  });
  return article;
}

function chip({ name, probability }, index) {
  const element = made("span", index === 0 ? "chip first" : "chip");
  element.append(made("span", "", spoken(name.split(" / ").at(-1))), made("span", "share", percent(probability)));
  element.title = name;
  return element;
}
