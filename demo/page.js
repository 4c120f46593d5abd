// The player, files that are dropped or pasted, and keeping in view what answers a click.
(() => {
  const find = (selector, root = document) => root.querySelector(selector);
  const isStill = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  // The player. A clip is the data of a tile, or of what the page's process shows (demo/html.py).
  const player = () => find("#player figure");
  let shownAt = "";

  const play = (figure, video) => video.play().then(
    () => figure.classList.remove("mova-blocked"),
    () => figure.classList.add("mova-blocked"), // the browser wants a click first
  );

  function show(clip, plays) {
    const figure = player(), video = find("video", figure), loops = plays === "loop";
    find(".mova-before", figure).hidden = true;
    figure.classList.remove("mova-blocked");
    figure.classList.toggle("mova-ambient", loops);
    Object.assign(video, { loop: loops, muted: loops, controls: !loops });
    video.poster = clip.poster || "";
    if (video.getAttribute("src") !== clip.src) video.src = clip.src;
    video.currentTime = 0;
    const strip = find(".mova-strip", figure);
    strip.hidden = !clip.strip;
    if (clip.strip) find("img", strip).src = clip.strip;
    find("figcaption", figure).textContent = clip.label || "";
    video.setAttribute("aria-label", clip.label || "Clip");
    const here = find(`.mova-tile[data-src="${clip.src}"]`);
    for (const tile of document.querySelectorAll(".mova-tile"))
      tile.setAttribute("aria-pressed", String(tile === here && !loops));
    if (plays === "click" || (plays && !isStill())) play(figure, video);
    else figure.classList.add("mova-blocked");
  }

  window.movaPlay = (clip) => { show(clip, "click"); reveal("#player"); };

  // The visitor's clip made before that one.
  const before = (src) => find(`#mine .mova-tile[data-src="${src}"]`)?.nextElementSibling;

  function compare() {
    const figure = player(), [now, old] = figure.querySelectorAll("video"), other = find(".mova-before", figure);
    other.hidden = !other.hidden;
    if (other.hidden) return;
    old.src = before(now.getAttribute("src")).dataset.src;
    for (const video of [now, old]) { video.currentTime = 0; video.play().catch(() => {}); }
  }

  function unmute() {
    const figure = player(), video = find("video", figure);
    figure.classList.remove("mova-ambient");
    Object.assign(video, { muted: false, loop: false, controls: true, currentTime: 0 });
    play(figure, video);
    video.focus();
  }

  function showSent() {
    const clip = find("#shown [data-src]");
    if (!clip || !player() || clip.dataset.at === shownAt) return;
    const isNews = shownAt && clip.dataset.plays === "sound";
    shownAt = clip.dataset.at;
    show(clip.dataset, clip.dataset.plays);
    if (isNews) { reveal("#player"); announce("Clip ready."); }
  }

  const announce = (text) => { find("#mova-live").textContent = text; };

  // Tiles that are seen move, unless the visitor wants stills.
  const onScreen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries)
      if (isIntersecting && !isStill()) target.play().catch(() => {}); else target.pause();
  });

  addEventListener("timeupdate", ({ target }) => {
    const line = find(".mova-strip i", player() || document);
    if (line && target.closest(".mova-screen")) line.style.left = `${100 * target.currentTime / target.duration}%`;
  }, true);

  // What answers a click comes into view, whole where it fits.
  function reveal(selector) {
    const box = find(selector)?.getBoundingClientRect();
    if (!box) return;
    const bar = find("#make, #stop")?.getBoundingClientRect();
    const bottom = bar && getComputedStyle(find("#prompt-row")).position === "fixed" ? bar.top : innerHeight;
    const seen = Math.min(box.bottom, bottom) - Math.max(box.top, 0);
    if (seen < 0.8 * Math.min(box.height, bottom))
      find(selector).scrollIntoView({ block: "start", behavior: isStill() ? "auto" : "smooth" });
  }

  const FAULT = "#composer .mova-error, #composer [class*=error]:not(:empty), #hint .mova-warning";
  function revealAnswer(tries = 20) {
    if (find("#status .mova-run, #status .mova-error")) reveal("#status");
    else if (find(FAULT)) reveal("#composer");
    else if (tries) setTimeout(revealAnswer, 150, tries - 1);
  }

  function revealCard(selector, tries = 20) {
    if (find(selector)?.offsetParent) reveal(selector);
    else if (tries) setTimeout(revealCard, 150, selector, tries - 1);
  }

  // Files: dropped anywhere or pasted, they go the way of the Add button.
  const isTraining = () => find("#train-upload")?.offsetParent; // there clips are for learning
  const isOpen = () => find("#composer")?.offsetParent && !isTraining();
  const mark = (on) => document.body.classList.toggle("mova-drop", on);
  function add(event, files) {
    const input = find("#add")?.previousElementSibling; // gradio puts the field there
    const file = [...files].find(({ type }) => /^(image|audio|video)\//.test(type));
    if (!file || !input || !isOpen()) return;
    event.preventDefault();
    event.stopPropagation();
    const transfer = new DataTransfer();
    transfer.items.add(file);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }
  addEventListener("dragover", (event) => {
    if (![...(event.dataTransfer?.items || [])].some(({ kind }) => kind === "file") || !isOpen()) return;
    event.preventDefault();
    mark(true);
  }, true);
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); }, true);
  addEventListener("drop", (event) => { mark(false); add(event, event.dataTransfer?.files || []); }, true);
  addEventListener("paste", (event) => add(event, event.clipboardData?.files || []), true);

  function more(open) {
    const panel = find("#more-panel");
    panel.classList.toggle("mova-open", open);
    find("#more").setAttribute("aria-expanded", String(panel.classList.contains("mova-open")));
  }

  addEventListener("click", ({ target, clientX }) => {
    const on = (selector) => target.closest(selector);
    if (on("#more")) more();
    if (on(".mova-unmute")) unmute();
    if (on(".mova-play")) play(player(), find("video", player()));
    if (on(".mova-ambient video")) unmute();
    if (on("#compare")) compare();
    if (on("#make")) setTimeout(revealAnswer, 150);
    if (on("#extend, #redo-sound, #redo-picture, #retake")) revealCard("#added");
    if (on("#go-on")) revealCard("#picture");
    if (on("#reuse, #load-added")) reveal("#composer");
    const strip = on(".mova-strip");
    if (strip) {
      const video = find("video", player()), { left, width } = strip.getBoundingClientRect();
      video.currentTime = video.duration * (clientX - left) / width;
    }
  });

  // The tab is in the address: a reload keeps it, and Back returns to the one before.
  let tab = "";
  const asked = () => find(`#${CSS.escape(new URLSearchParams(location.search).get("tab") || "generate")}-tab-button`);
  function followTab() {
    const button = find(".tab-container:not(.visually-hidden) > [role=tab][aria-selected=true]");
    if (!button || button.id === tab) return;
    if (!tab && asked() && asked() !== button) { tab = asked().id; asked().click(); return; }
    const isFirst = !tab;
    tab = button.id;
    if (isFirst || button === asked()) return;
    const address = new URL(location);
    address.searchParams.set("tab", tab.replace("-tab-button", ""));
    history.pushState(null, "", address);
  }
  addEventListener("popstate", () => asked()?.click());

  // What had the focus and is put away or disabled hands it on: to itself once it is back, to the next act,
  // to another button for the same clip. A click elsewhere ends that.
  const NEXT = {
    "#make": "#stop", "#stop": "#make", "#delete": "#undo", "#undo": "#delete",
    "#enhance-status": "#write", "#kept": "#use-0", "#faults-0": "#use-0", "#use-0": "#make",
    "#train-start": "#train-stop", "#train-stop": "#train-go_on", "#train-go_on": "#train-stop", "#train-use": "#make",
  };
  let had = null, next = "";
  addEventListener("focusin", ({ target }) => {
    had = target;
    next = Object.entries(NEXT).find(([from]) => target.closest(from))?.[1];
  });
  addEventListener("pointerdown", ({ target }) => { if (!had?.contains(target)) had = null; }, true);
  function keepFocus() {
    if (!had || document.activeElement !== document.body) return;
    const { name } = had.dataset;
    const heirs = [had, next && find(next), name && find(`[data-name="${CSS.escape(name)}"]`)];
    heirs.find((heir) => heir?.checkVisibility() && !heir.disabled)?.focus({ preventScroll: true });
  }

  // What gradio draws, a moment after it has drawn it.
  let drawn = false;
  function afterDrawing() {
    drawn = false;
    showSent();
    followTab();
    const compared = find("#compare");
    if (compared) compared.hidden = !before(find("video", player()).getAttribute("src"));
    for (const video of document.querySelectorAll(".mova-tile video:not([data-seen])")) {
      video.dataset.seen = "";
      onScreen.observe(video);
    }
    if (!find("#mova-live")) {
      const live = document.createElement("p");
      Object.assign(live, { id: "mova-live", className: "mova-sr", role: "status" });
      document.body.append(live);
    }
    find("#more")?.hasAttribute("aria-expanded") || (find("#more") && more(false));
    // A fault of a field in More opens it.
    if (find("#more-panel:not(.mova-open) .validation-error")) more(true);
    keepFocus();
  }
  new MutationObserver(() => {
    if (!drawn) { drawn = true; requestAnimationFrame(afterDrawing); }
  }).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["data-at", "aria-selected", "disabled"] });
})();
