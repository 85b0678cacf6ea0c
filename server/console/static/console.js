// Progress while it happens. Without this file every page still says what was so when it was loaded.
"use strict";
const shown = document.querySelector("[data-progress]");
if (shown) {
  const events = new EventSource(shown.dataset.progress);
  events.onmessage = (message) => {
    const state = JSON.parse(message.data);
    if (Object.keys(state.clients).length > Number(shown.dataset.clients)) { events.close(); location.reload(); return; }
    const bar = shown.querySelector("progress");
    if (!bar) { return; }
    bar.max = Math.max(state.drawn, 1);
    bar.value = state.proved;
    shown.querySelector("[data-count]").textContent = `${state.proved} of ${state.drawn} proofs hold`;
    for (const [client, status] of Object.entries(state.clients)) {
      const cell = document.querySelector(`[data-client="${CSS.escape(client)}"]`);
      if (cell) { cell.textContent = status; cell.className = status; }
    }
    if (state.done) { events.close(); location.reload(); }
  };
  events.onerror = () => events.close();
}
