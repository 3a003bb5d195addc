// Words beside a picture, and how much of the search is theirs.

import { fitting } from "./address.js";
import { percent } from "./insights.js";

// `change` gets {words, share}, or {} without words, and whether it is only the share that differs. What comes back
// shows a query's words.
export function mixing(form, change) {
  const { words: input, share: slider } = form.elements;
  const [add, off, balance] = ["[type=submit]", ".off", ".balance"].map((name) => form.querySelector(name));
  let shown = "";
  let waiting;

  const label = () => {
    const share = Number(slider.value);
    const parts = [`Picture ${percent(1 - share)}`, `Words ${percent(share)}`];
    balance.firstElementChild.textContent = parts[0];
    balance.lastElementChild.textContent = parts[1];
    slider.setAttribute("aria-valuetext", parts.join(", "));
  };
  const showButtons = () => {
    const same = input.value.trim() === shown;
    off.hidden = !(shown && same);
    add.hidden = !off.hidden;
  };
  const send = () => {
    clearTimeout(waiting);
    const words = input.value.trim();
    if (words) change({ words, share: fitting(slider.value) }, false);
    else if (shown) change({}, false);
    else input.focus();
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  off.addEventListener("click", () => {
    input.value = "";
    input.focus();
    send();
  });
  input.addEventListener("input", showButtons);
  slider.addEventListener("input", () => {
    label();
    clearTimeout(waiting);
    waiting = setTimeout(() => shown && change({ words: shown, share: fitting(slider.value) }, true), 200);
  });

  return function show({ words = "", share = 0.5 }) {
    if (words !== shown || !words) {  // else it is as it was: whoever types or drags is not disturbed
      shown = words;
      input.value = words;
    }
    if (document.activeElement !== slider) slider.value = share;
    balance.hidden = !words;
    label();
    showButtons();
  };
}
