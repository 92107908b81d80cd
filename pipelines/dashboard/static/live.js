// Pages are whole without this. It shows what a bar is, and renews the figures while "live" is on.
"use strict";

const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");
document.body.append(tip);

function told(event) {
  const part = event.target.closest?.(".chart [aria-label]");
  tip.hidden = !part || part.matches("svg, g");
  if (tip.hidden) return;
  tip.textContent = part.getAttribute("aria-label");
  const left = Math.min(event.pageX + 12, document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${event.pageY - tip.offsetHeight - 12}px`;
}
document.addEventListener("pointermove", told);
document.addEventListener("pointerdown", told);

const figures = document.getElementById("figures");
const live = document.getElementById("live");

async function renew() {
  const inside = figures.contains(document.activeElement) && document.activeElement.matches("input, [tabindex]");
  if (!live.checked || document.hidden || inside) return;
  let page;
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(30000) });
    if (answer.redirected) return location.reload();
    page = answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html") : null;
  } catch {
    page = null;
  }
  const fresh = page?.getElementById("figures");
  document.body.classList.toggle("away", !fresh);
  document.querySelector(".pulse").title = fresh ? "" : "adtally does not answer; tried again soon";
  if (!fresh || !live.checked) return;
  for (const details of figures.querySelectorAll("details[id]")) {
    const other = fresh.querySelector(`#${details.id}`);
    if (other) other.open = details.open;
  }
  const focused = document.activeElement.id || document.activeElement.closest("details")?.id;
  const within = figures.contains(document.activeElement);
  figures.replaceChildren(...fresh.childNodes);
  if (within && focused) (document.getElementById(focused)?.querySelector("summary") ?? document.getElementById(focused))?.focus();
  document.querySelector(".pulse").replaceWith(page.querySelector(".pulse"));
}

if (live && figures) {
  (function again() {
    setTimeout(async () => { await renew(); again(); }, live.dataset.seconds * 1000);
  })();
}
