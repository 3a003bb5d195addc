// The category that hits are in: the path that was chosen, and where it may go on from the hits that are shown.

const MAX_CATEGORIES = 12;  // buttons for the next level

// `nav` holds the buttons; each has the path that it leads to as `data-within`, where [] is everything.
export function showCategories(nav, within, hits) {
  const path = within.flatMap((name, index) => {
    const last = index === within.length - 1;
    const chosen = button(name, last ? within.slice(0, -1) : within.slice(0, index + 1), last ? "choice on" : "step");
    chosen.title = last ? `Take off ${name}` : `All of ${name}`;
    if (last) chosen.ariaLabel = chosen.title;
    return [mark("›"), chosen];
  });
  if (path.length) path.unshift(button("Everything", [], "step"));
  const further = subcategories(within, hits).map((name) => {
    const choice = button(name, [...within, name], "choice");
    choice.title = `Only ${[...within, name].join(" › ")}`;
    return choice;
  });
  nav.replaceChildren(...path, ...further);
  nav.hidden = nav.childElementCount === 0;
  const on = nav.querySelector(".on");  // on a phone it is a strip: the category is in sight, with a little of what follows
  nav.scrollLeft = on ? on.offsetLeft - nav.offsetLeft + on.offsetWidth + 48 - nav.clientWidth : 0;
}

// Sets the focus once another category is shown: its button was replaced with the hits.
export const restoreFocus = (nav) => (nav.querySelector(".on") || nav.querySelector("button"))?.focus({ preventScroll: true });

// Names of the next level, those of most hits first.
function subcategories(within, hits) {
  const counts = new Map();
  for (const { item } of hits) {
    const under = within.every((name, index) => item.category?.[index] === name);
    const name = under && item.category?.[within.length];
    if (name) counts.set(name, (counts.get(name) || 0) + 1);
  }
  return [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one)).slice(0, MAX_CATEGORIES);
}

function button(name, within, className) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = className;
  made.textContent = name;
  made.dataset.within = JSON.stringify(within);
  return made;
}

function mark(text) {
  const made = document.createElement("span");
  made.ariaHidden = "true";
  made.textContent = text;
  return made;
}
