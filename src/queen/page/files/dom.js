// Elements without markup: text that is given stays text, whoever wrote it.

export const $ = (id) => document.getElementById(id);

/** An element; `on...` is a listener, `true` an empty attribute, and what is false or missing is left out. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null && child !== false));
  return node;
}

/** A drawing of the sprite in index.html. */
export function icon(name, attributes = {}) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  svg.append(use);
  return svg;
}

export function button(text, onclick, attributes = {}, ...before) {
  return el("button", { type: "button", class: "small", onclick, ...attributes }, ...before, text);
}

/** Shows text in an element, which is hidden while there is none. */
export function show(node, text) {
  if (node.textContent !== text) node.textContent = text;
  node.hidden = !text;
}

/** Says something to those who do not see the page. */
export function say(text) {
  $("status").textContent = text;
}

export const count = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

/** A time in milliseconds, as it is read. */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}
