// Changing the catalogue: an item's fields, a picture as a new item, and taking an item out.

import { deleteItem, putItem, readItem, readPicture } from "./catalogue.js";
import { detail } from "./problems.js";

const FRESH = { cache: "no-cache" };  // what is written back must not be an older picture
const NAMES = ["id", "title", "text", "category"];

// `done` gets what was written: {status, id, name}, and {picture, text} of what is deleted.
export function editing(dialog, done) {
  const form = dialog.querySelector("form");
  const fields = form.elements;
  const [heading, wrong, remove, cancel, save] = ["h2", ".wrong", ".remove", ".cancel", ".save"].map((name) => dialog.querySelector(name));
  const before = {};  // what the fields held first
  let task;          // {save, remove} of the dialog that is open
  let busy = false;
  let sure = false;  // whether the next press deletes

  function open(title, values, next) {
    if (busy) return;
    task = next;
    heading.textContent = title;
    for (const name of NAMES) {
      fields[name].value = values[name] || "";
      before[name] = fields[name].value;  // as the field holds it: of a title, without line breaks
    }
    fields.id.disabled = fields.id.parentElement.hidden = Boolean(task.remove);
    save.textContent = task.remove ? "Save" : "Add";
    remove.hidden = !task.remove;
    wrong.textContent = "";
    doubt();
    dialog.showModal();
    fields.title.focus();
  }

  function doubt() {
    sure = false;
    remove.textContent = "Delete…";
  }

  async function attempt(action) {
    if (busy) return;
    busy = true;
    form.setAttribute("aria-busy", true);
    wrong.textContent = "";
    try {
      const result = await action();
      dialog.close();
      done(result);
    } catch (problem) {
      wrong.textContent = detail(problem);
    } finally {
      busy = false;
      form.removeAttribute("aria-busy");
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(task.save);
  });
  cancel.addEventListener("click", () => dialog.close());
  remove.addEventListener("click", () => {
    if (sure) return attempt(task.remove);
    sure = true;
    remove.textContent = "Delete it for good";
  });
  remove.addEventListener("blur", doubt);

  const read = () => ({
    title: fields.title.value.trim() || null,
    text: fields.text.value.trim() || null,
    category: fields.category.value.split(/[›>]/).map((name) => name.trim()).filter(Boolean),
  });

  // The item `id`; `pictured` says whether it is known to have a picture.
  async function edit(id, pictured) {
    const found = await readItem(id);
    open(`Edit ${found.title || id}`, { ...found, id, category: found.category?.join(" › ") }, {
      save: async () => {
        const shown = read();
        const { image: _, ...item } = await readItem(id);  // once more: others may have changed it meanwhile
        const picture = await readPicture(id, FRESH);
        if (pictured && !picture) throw { detail: "Its picture cannot be read just now, and would be lost: try again." };
        for (const name of NAMES) {
          if (fields[name].value !== before[name]) item[name] = shown[name];
        }
        return { status: await putItem({ ...item, id }, picture), id, name: item.title || id };
      },
      remove: async () => {
        const picture = await readPicture(id, FRESH).catch(() => null);
        return { status: await deleteItem(id), id, name: found.title || id, picture, text: found.text };
      },
    });
  }

  // A picture as a new item; `name` is that of its file.
  function add(picture, name) {
    open("Add it to the catalogue", { id: newId(name) }, {
      save: async () => {
        const id = fields.id.value.trim();
        const there = await readItem(id).catch((problem) => {
          if (problem.status !== 404) throw problem;
        });
        if (there) throw { detail: `There is an item ${id} already, which would be replaced: choose another id.` };
        const item = read();
        return { status: await putItem({ ...item, id }, picture), id, name: item.title || id };
      },
    });
  }

  return { edit, add };
}

// The name of a file, and a number by which it is no other's.
function newId(name = "") {
  const stem = name.replace(/\.\w+$/, "").trim().slice(0, 80) || "picture";
  return `${stem}-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
}

export const outcome = ({ status, name }) => ({
  created: `“${name}” is in the catalogue now.`,
  updated: `“${name}” was changed.`,
  unchanged: `“${name}” stays as it was: there was nothing to change.`,
  deleted: `“${name}” was deleted.`,
})[status];
