"use strict";
// A slider a plane: puts the pictures of its place into the columns. All pictures lie in the page, in the JSON element `pictures`.
const { planes, uris } = JSON.parse(document.getElementById("pictures").textContent);
for (const slider of document.querySelectorAll("input[type=range]")) {
  const plane = slider.dataset.plane, data = planes[plane], box = document.getElementById("plane-" + plane);
  const show = () => {
    const i = Number(slider.value);
    for (const image of box.querySelectorAll("img[data-column]")) {
      image.src = uris[data.pictures[image.dataset.column][i]];
      image.setAttribute("style", data.styles[image.dataset.column][i]); // HR pictures can differ in size
    }
    for (const text of box.querySelectorAll("[data-text]")) text.textContent = data[text.dataset.text][i];
    slider.setAttribute("aria-valuetext", data.places[i]);
  };
  slider.addEventListener("input", show);
  show(); // a browser can keep a slider's place when a page is loaded again
}
const overlay = document.getElementById("overlay");
if (overlay) {
  const show = () => {
    for (const image of document.querySelectorAll("img[data-column=uncertainty]")) image.classList.toggle("off", !overlay.checked);
  };
  overlay.addEventListener("change", show);
  show();
}
