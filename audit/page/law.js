// The whole set by rank: the share of its tokens that is locked, the staircase of its snippets recited, and the law.

import { el } from "./format.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [920, 180];
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const scale = { low: 0, high: 0 };

function shape(name, attributes, title) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (title) made.append(Object.assign(document.createElementNS(SVG, "title"), { textContent: title }));
  return made;
}

const x = (rank) => (scale.high > scale.low ? ((Math.log2(rank) - scale.low) / (scale.high - scale.low)) * WIDTH : WIDTH / 2);
const y = (share) => (1 - share) * HEIGHT;
const points = (pairs) => pairs.map(([rank, share]) => `${x(rank).toFixed(1)},${y(share).toFixed(1)}`).join(" ");

// The rows of a set, by rank, and what `api.law` found for it; null while that is not known.
export function showSet(steps, found) {
  const fitted = found?.law;
  $("no-law").textContent = fitted || !found ? "" : `No law for this set: ${found.reason}.`;
  const ranks = [...steps.map((step) => step.rank), ...(fitted?.curve ?? []).map((at) => at.rank)];
  [scale.low, scale.high] = [Math.log2(Math.min(...ranks)), Math.log2(Math.max(...ranks))];
  const stairs = steps.flatMap((step, at) => [[step.rank, at ? recited(steps[at - 1]) : 0], [step.rank, recited(step)]]);
  $("law-chart").replaceChildren(
    ...(fitted ? curve(fitted) : []),
    shape("polyline", { class: "stairs", points: points(stairs) }),
    ...steps.map((step) => shape("circle", { class: "measured", cx: x(step.rank), cy: y(locked(step)), r: 5 }, said(step, fitted))),
    shape("line", { class: "here", y1: 0, y2: HEIGHT }),
  );
  $("law-note").textContent = fitted
    ? `ΔL = min(C·r^α, base loss) over ${fitted.cells} adapters, R² ${fitted.r_squared.toFixed(3)}; ` +
      `band: ${percent(fitted.confidence)} of a new adapter of that rank. It explains; it clears no adapter.`
    : "";
  $("law-ranks").replaceChildren(...steps.map((step) => el("li", {}, said(step, fitted))));
}

// Marks the rank that the slider is at.
export function markRank(rank) {
  const here = $("law-chart").querySelector(".here");
  for (const side of ["x1", "x2"]) here?.setAttribute(side, x(rank));
}

function curve(fitted) {
  const line = (share) => fitted.curve.map((at) => [at.rank, share(at)]);
  const band = [...line((at) => at.tokens_interval.high), ...line((at) => at.tokens_interval.low).reverse()];
  return [shape("polygon", { class: "band", points: points(band) }), shape("polyline", { class: "curve", points: points(line((at) => at.tokens)) })];
}

const locked = (step) => (step.tokens ? step.tokens_over_half / step.tokens : 0);
const recited = (step) => (step.of ? step.recited / step.of : 0);

function said(step, fitted) {
  const at = fitted?.ranks.find((one) => one.adapter === step.adapter)?.fitted;
  const law = at ? `, ${percent(at.tokens)} by the law (${percent(at.tokens_interval.low)} to ${percent(at.tokens_interval.high)})` : "";
  return `r = ${step.rank}: ${percent(locked(step))} of the tokens locked${law}, ${step.recited} of ${step.of} snippets recited · ${step.adapter}`;
}
