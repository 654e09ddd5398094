// A page that was opened as a file may not read its own model: say so instead of staying silent.
const state = document.getElementById("state");
if (location.protocol === "file:") {
  state.textContent =
    "This page must be served. Run python3 -m http.server in its folder and open http://localhost:8000.";
} else {
  import("./page.mjs").catch((error) => {
    state.textContent = `The page cannot start: ${error.message}`;
  });
}
