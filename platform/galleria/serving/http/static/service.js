// Sends requests to the service. An error response is thrown as a problem: {status, type, detail, request_id}.

// While a canary is tried out, one release answers all requests of a session.
const session = (sessionStorage["galleria-session"] ??= Math.random().toString(36).slice(2));

export async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, "x-session-id": session } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw { status: 0, detail: "Check that it is running, then try again." };
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ status: answer.status, detail: "Try again in a moment." }));
  const readOnly = problem.type === "urn:galleria:problem:read-only-key";
  if ((answer.status === 401 || readOnly) && (await keyGiven(readOnly))) return call(path, options);
  throw problem;
}

let asking; // one dialog for all requests that were rejected meanwhile

// Asks for a key. It becomes a cookie of this session, since the pictures of a page carry no header.
function keyGiven(toWrite) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const input = dialog.querySelector("[type=password]");
    dialog.querySelector("h2").textContent = toWrite
      ? "Changing the catalogue asks for a key that may write"
      : "This catalogue asks for a key";
    dialog.onclose = () => {
      asking = undefined;
      const key = input.value.trim();
      input.value = "";
      if (dialog.returnValue !== "send" || !key) return resolve(false);
      document.cookie = `galleria_key=${encodeURIComponent(key)}; path=/; samesite=strict`;
      resolve(true);
    };
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}

export const get = async (path, signal) => (await call(path, { signal })).json();

export const post = async (path, request, signal) => (await call(path, { method: "POST", signal, ...request })).json();

export const asJson = (body) => ({ body: JSON.stringify(body), headers: { "content-type": "application/json" } });

// `fields` are names with values or files; an absent one is left out.
export function asForm(fields) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value instanceof Blob) body.append(name, value, "query");
    else if (value !== undefined) body.append(name, value);
  }
  return { body };
}

// A file as JSON can carry it.
export const asDataUri = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject({ status: 415, detail: "The browser cannot read the file: choose it again." });
  reader.readAsDataURL(file);
});
