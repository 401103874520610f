// The routes, with the key that was entered on the page; it stays in this tab's session storage.

const KEY = "lorecall-key";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const key = () => sessionStorage.getItem(KEY) ?? "";

export function setKey(secret) {
  if (secret) sessionStorage.setItem(KEY, secret);
  else sessionStorage.removeItem(KEY);
}

async function ask(path) {
  const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
  const answer = await fetch(`../v1/${path}`, { headers });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Refused(answer.status, said?.error?.message ?? `the server answered ${answer.status}`);
}

const json = async (path) => (await ask(path)).json();

export async function adapters() {
  const found = [];
  for (let more = true; more; ) {
    const page = await json(found.length ? `adapters?after=${encodeURIComponent(found.at(-1).name)}` : "adapters");
    found.push(...page.adapters);
    more = page.has_more === true;
  }
  return found;
}
export const audits = async () => (await json("audits?limit=200")).audits;
export const audit = (id) => json(`audits/${id}`);
export const capacity = async () => (await json("capacity?law=false")).rows;
export const laws = async () => (await json("capacity")).laws;
export const snippets = async (id, offset, limit) =>
  (await json(`audits/${id}/snippets?offset=${offset}&limit=${limit}`)).snippets;
export const diff = async (before, after, kind) => (await ask(`audits/${before}/diff/${after}.${kind}`)).blob();
export const report = async (id, kind) => (await ask(`audits/${id}/report.${kind}`)).blob();

// A link cannot send the key, so a file is fetched and then saved.
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
