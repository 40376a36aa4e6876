// While work is under way the page asks for itself again, once a second, and swaps what has changed.
// Without this script a page with work under way reloads every 5 seconds (see base.html).
const PAUSE = 1000;
const PATIENCE = 5000;

const swap = (next) => {
  for (const old of document.querySelectorAll("[data-region]")) {
    const fresh = next.querySelector(`[data-region="${old.dataset.region}"]`);
    if (fresh && fresh.innerHTML !== old.innerHTML && !old.contains(document.activeElement)) {
      old.replaceChildren(...fresh.childNodes);
    }
  }
  document.querySelector("main").toggleAttribute("data-working", Boolean(next.querySelector("main[data-working]")));
};

const look = async () => {
  const answer = await fetch(location.pathname, { headers: { Accept: "text/html" } });
  if (answer.ok) swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
};

const follow = async () => {
  while (document.querySelector("main[data-working]")) {
    const pause = await look().then(() => PAUSE, () => PATIENCE);
    await new Promise((done) => setTimeout(done, pause));
  }
};

setTimeout(follow, PAUSE / 4);
