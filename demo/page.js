// A clip dropped anywhere goes to the field that restores settings; other files stay with the field under them.
(() => {
  const isClip = (event) => [...(event.dataTransfer?.items || [])].some((item) => item.type === "video/mp4");
  const inTraining = () => document.querySelector("#train-upload")?.offsetParent; // there clips are for learning
  const mark = (on) => document.body.classList.toggle("mova-drop", on);
  addEventListener("dragover", (event) => { if (isClip(event) && !inTraining()) { event.preventDefault(); mark(true); } }, true);
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); }, true);
  addEventListener("drop", (event) => {
    mark(false);
    const clips = [...(event.dataTransfer?.files || [])].filter((file) => file.type === "video/mp4");
    const input = document.querySelector("#restore")?.previousElementSibling; // gradio puts the field there
    if (!clips.length || !input || inTraining()) return;
    event.preventDefault();
    event.stopPropagation();
    const transfer = new DataTransfer();
    transfer.items.add(clips[0]);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }, true);
  // gradio leaves the picture's own button without a name.
  new MutationObserver(() => {
    for (const button of document.querySelectorAll("#strip button:not([aria-label]):not([title])"))
      button.setAttribute("aria-label", "Frames over sound, larger");
  }).observe(document, { childList: true, subtree: true });
  // On a phone the clip is off the screen: go there once it is being made or was picked.
  addEventListener("click", (event) => {
    const picked = event.target.closest("#examples button, #mine button");
    if (!(picked || event.target.closest("#make")) || innerWidth > 720) return;
    setTimeout(() => {
      if (picked || document.querySelector("#make").disabled)
        document.querySelector("#status")?.scrollIntoView({ block: "start", behavior: "smooth" });
    }, 1200);
  });
})();
