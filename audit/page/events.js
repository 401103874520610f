// Who did what, newest first.

import * as api from "./api.js";
import { eventRow, fill } from "./tables.js";

const $ = (id) => document.getElementById(id);
const view = { older: [], more: null };

export const needs = "GET /v1/events";

export async function show() {
  const page = await api.events("");
  view.more ??= page.has_more;
  const oldest = page.events[0]?.id ?? 0;
  const all = [...page.events.toReversed(), ...view.older.filter((one) => one.id < oldest)];
  view.last = all.at(-1);
  fill("events", all, (one) => eventRow(one));
  $("events-older").hidden = !view.more;
  return false;
}

export function listen(failed) {
  $("events-older").addEventListener("click", async () => {
    try {
      const page = await api.events("", { before: view.last.id });
      view.older.push(...page.events.toReversed());
      view.more = page.has_more;
      await show();
    } catch (error) {
      failed(error);
    }
  });
}
