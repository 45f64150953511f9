// Elements. Text from outside gets into the page as text nodes only, so a payload cannot add markup.

const SVG = "http://www.w3.org/2000/svg";

/** Returns the element of an id. It is in index.html. */
export function byId(id) {
  return document.getElementById(id);
}

/** Creates an element. A child that is text becomes a text node. */
export function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Creates an element of a drawing. */
export function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) setAttribute(element, key, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets an attribute, or removes it if the value is null or false. Touches nothing that is right. */
export function setAttribute(element, key, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(key)) element.removeAttribute(key);
    return;
  }
  const text = value === true ? "" : String(value);
  if (element.getAttribute(key) !== text) element.setAttribute(key, text);
}

/** Sets the text of an element. An equal text changes nothing, so a screen reader stays silent. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows or hides an element. */
export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

const rowsOf = new WeakMap();

/**
 * Makes the children of `parent` those of `items`, in their order. An item with a known key keeps its
 * node, and so its focus and its open parts. `create` makes a node, and `update` fills it.
 */
export function keyed(parent, items, { key, create, update }) {
  const old = rowsOf.get(parent) ?? new Map();
  const rows = new Map();
  for (const item of items) {
    const id = key(item);
    if (!rows.has(id)) rows.set(id, old.get(id) ?? create(item));
  }
  for (const [id, node] of old) if (!rows.has(id)) node.remove();
  let next = parent.firstChild;
  for (const node of rows.values()) {
    if (node === next) next = next.nextSibling;
    else parent.insertBefore(node, next);
  }
  rowsOf.set(parent, rows);
  for (const item of items) update(rows.get(key(item)), item);
}

/** Draws a line of values that ends at the right edge. `length` values fill the width. */
export function sparkline(values, { length, width, height, top }) {
  const max = top ?? Math.max(1e-9, ...values.filter(Number.isFinite));
  const step = width / (length - 1);
  const first = width - (values.length - 1) * step;
  let path = "";
  let isOpen = false;
  values.forEach((value, index) => {
    if (!Number.isFinite(value)) {
      isOpen = false;
      return;
    }
    const x = (first + index * step).toFixed(1);
    const y = (height - 1.5 - (value / max) * (height - 3)).toFixed(1);
    path += `${isOpen ? "L" : "M"}${x} ${y}`;
    isOpen = true;
  });
  return path;
}
