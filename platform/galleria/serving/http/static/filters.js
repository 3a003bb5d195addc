// The category that hits are in: the path that was chosen, and where it may go on from the hits that are shown.

const MOST = 12;  // ways to go on

// `nav` holds the buttons; each has the path that it leads to as `data-within`, where [] is everything.
export function showCategories(nav, within, hits) {
  const path = within.flatMap((name, place) => {
    const last = place === within.length - 1;
    const chosen = button(name, last ? within.slice(0, -1) : within.slice(0, place + 1), last ? "choice on" : "step");
    chosen.title = last ? `Take off ${name}` : `All of ${name}`;
    if (last) chosen.ariaLabel = chosen.title;
    return [mark("›"), chosen];
  });
  if (path.length) path.unshift(button("Everything", [], "step"));
  const further = ways(within, hits).map((name) => {
    const way = button(name, [...within, name], "choice");
    way.title = `Only ${[...within, name].join(" › ")}`;
    return way;
  });
  nav.replaceChildren(...path, ...further);
  nav.hidden = nav.childElementCount === 0;
  const on = nav.querySelector(".on");  // on a phone it is a strip: the category is in sight, with a little of what follows
  nav.scrollLeft = on ? on.offsetLeft - nav.offsetLeft + on.offsetWidth + 48 - nav.clientWidth : 0;
}

// Where focus goes on once another category is shown: its button went with the hits before.
export const goOn = (nav) => (nav.querySelector(".on") || nav.querySelector("button"))?.focus({ preventScroll: true });

// Names of the next level, those of most hits first.
function ways(within, hits) {
  const counts = new Map();
  for (const { item } of hits) {
    const under = within.every((name, place) => item.category?.[place] === name);
    const name = under && item.category?.[within.length];
    if (name) counts.set(name, (counts.get(name) || 0) + 1);
  }
  return [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one)).slice(0, MOST);
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
