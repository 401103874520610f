// Capacity against recall: the phase transition over the deployed ranks, and the law under it.

import * as api from "./api.js";
import * as phase from "./phase.js";

const $ = (id) => document.getElementById(id);

export const needs = "GET /v1/capacity/sets";
export const every = 30_000;

export async function show() {
  await phase.show(await api.capacitySets());
  $("no-phase").hidden = !$("phase").hidden;
  return false;
}

export const listen = phase.listen;
