// A hit as a card; a level of its category is a button with the path as `data-within`.

export function card(hit, index) {
  const made = document.getElementById("card").content.cloneNode(true);
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
  part(".path").append(...(hit.item.category || []).flatMap(level));
  part(".source").textContent = hit.item.source || "";
  part("li").style.animationDelay = `${Math.min(index, 16) * 18}ms`;
  return made;
}

function level(name, index, path) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.title = `Only ${path.slice(0, index + 1).join(" › ")}`;
  button.dataset.within = JSON.stringify(path.slice(0, index + 1));
  return index ? [" › ", button] : [button];
}
