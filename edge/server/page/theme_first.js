// Before anything is drawn: the theme that was chosen, so that a dark page does not flash white.
try {
  const chosen = localStorage.getItem("edge.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // storage is switched off: the system's theme
}
