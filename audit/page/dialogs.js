// One dialog for every step that changes something: it asks what is needed, and stays open with what went wrong.

import { el } from "./format.js";

const $ = (id) => document.getElementById(id);

// Say what was done, where a screen reader hears it.
export function say(text) {
  $("said").textContent = text;
}

// Go to another view, which says what was done.
let next = "";
export function goTo(place, said = "") {
  next = said;
  location.hash = place;
}
export function arrived() {
  say(next);
  next = "";
}

// Something on the server was changed from here: look again.
export const changed = () => document.dispatchEvent(new Event("changed"));

let count = 0;

// A field: {name, label, kind, hint, value, options, required}; kind is that of <input>, or textarea, select, checks.
export function field({ name, label, kind = "text", hint = "", value = "", options = [], ...more }) {
  const id = `f${++count}`;
  const note = hint ? el("p", { id: `${id}-hint`, className: "hint" }, hint) : null;
  const named = { id, name, ...more, ...(hint ? { "aria-describedby": `${id}-hint` } : {}) };
  if (kind === "checks") {
    const boxes = options.map(([one, text]) => el("label", { className: "check" }, el("input", { type: "checkbox", name, value: one, checked: value.includes(one) }), text));
    return el("fieldset", { className: "field" }, el("legend", {}, label), ...boxes, note);
  }
  if (kind === "checkbox") return el("div", { className: "field" }, el("label", { className: "check" }, el("input", { ...named, type: kind, checked: Boolean(value) }), label), note);
  const made =
    kind === "select"
      ? el("select", named, ...options.map(([one, text]) => el("option", { value: one, selected: one === value }, text)))
      : el(kind === "textarea" ? "textarea" : "input", { ...named, value, ...(kind === "textarea" ? { rows: 3 } : { type: kind }) });
  return el("div", { className: "field" }, el("label", { htmlFor: id }, label), made, note);
}

// Ask, then act with the form's values; resolves with what `act` returned, or null where the person left.
export function ask({ title, lead = "", fields = [], action, danger = false, act }) {
  const dialog = $("dialog");
  const wrong = el("p", { className: "wrong", role: "alert" });
  const submit = el("button", { type: "submit", className: danger ? "primary danger" : "primary" }, action);
  const leave = el("button", { type: "button" }, "Cancel");
  const form = el("form", {}, el("h2", { id: "dialog-title" }, title), ...(lead ? [el("p", { className: "lead" }, lead)] : []), ...fields.map(field), wrong, el("div", { className: "buttons" }, leave, submit));
  dialog.replaceChildren(form);
  return new Promise((resolve) => {
    let result = null;
    leave.addEventListener("click", () => dialog.close());
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      wrong.textContent = "";
      submit.disabled = true;
      try {
        result = (await act(new FormData(form))) ?? true;
        dialog.close();
      } catch (error) {
        wrong.textContent = error.message;
        submit.disabled = false;
        submit.focus();
      }
    });
    dialog.addEventListener("close", () => (dialog.replaceChildren(), resolve(result)), { once: true });
    dialog.showModal();
  });
}

// Show something once; it is gone with the dialog.
export function tell({ title, lead, body, action = "Done" }) {
  const dialog = $("dialog");
  const done = el("button", { type: "button", className: "primary", onclick: () => dialog.close() }, action);
  dialog.replaceChildren(el("h2", { id: "dialog-title" }, title), el("p", { className: "lead" }, lead), body, el("div", { className: "buttons" }, done));
  dialog.addEventListener("close", () => dialog.replaceChildren(), { once: true });
  dialog.showModal();
}
