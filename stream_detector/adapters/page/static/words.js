// Numbers and times as people read them, and elements whose text is always text.

export function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-3)) return value.toExponential(1);
  return value.toLocaleString("en", { maximumSignificantDigits: Math.max(digits, Math.trunc(Math.abs(value)).toString().length) });
}

export function moment(ms) {
  return ms === null || ms === undefined ? "–" : new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}

// Heat of a score: steps that colours tell apart, the threshold between the third and the fourth.
export function heat(score) {
  if (score === null) return 0;
  return [0.5, 0.8, 1, 2, 5].filter((limit) => score >= limit).length;
}
